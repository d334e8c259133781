/** Host of a DigitalOcean region, with an optional prefix: a bucket, or the CDN of a bucket. */
const SPACES_HOST = /^(?:(?<before>.+)\.)?(?<region>[a-z]+\d+)(?<cdn>\.cdn)?\.digitaloceanspaces\.com$/;

/** Start of an S3 host without the bucket, e.g. `s3.eu-central-1.amazonaws.com`. */
const S3_HOST = /^s3[.-]/;

/** With at least this many labels, the host after the bucket is assumed to be a storage host, not a domain. */
const STORAGE_HOST_LABELS = 3;

/** The variables with the bucket's address. The schema of each variable reports malformed values. */
type BucketAddress = {
  readonly DO_SPACES_ENDPOINT?: string | undefined;
  readonly DO_SPACES_BUCKET?: string | undefined;
  readonly DO_SPACES_URL?: string | undefined;
};

/**
 * The corrected `DO_SPACES_ENDPOINT`, if the value already contains the bucket. The service appends the bucket to the path,
 * so requests to such an endpoint would contain the bucket twice.
 *
 * @returns the corrected value; `undefined` when the value is right
 */
export function endpointWithoutBucket({
  DO_SPACES_ENDPOINT: endpoint,
  DO_SPACES_BUCKET: bucket,
  DO_SPACES_URL: publicUrl,
}: BucketAddress): string | undefined {
  const url = parseUrl(endpoint);
  if (!url) return undefined;
  const { before, region, cdn } = SPACES_HOST.exec(url.hostname)?.groups ?? {};
  if (region !== undefined) {
    const plain = before === undefined && cdn === undefined && pathOf(url) === '';
    return plain ? undefined : `${url.protocol}//${region}.digitaloceanspaces.com`;
  }
  if (bucket === undefined) return undefined;
  const name = bucket.toLowerCase();
  const path = endsWithSegment(pathOf(url), name) ? pathOf(url).slice(0, -name.length - 1) : pathOf(url);
  const rest = url.hostname.startsWith(`${name}.`) ? url.hostname.slice(name.length + 1) : undefined;
  const host = rest !== undefined && isStorageHost(rest, name, parseUrl(publicUrl)) ? rest : url.hostname;
  if (host === url.hostname && path === pathOf(url)) return undefined;
  return `${url.protocol}//${host}${url.port === '' ? '' : `:${url.port}`}${path}`;
}

/**
 * The corrected `DO_SPACES_URL`, if the value is the address of a CDN or does not contain the bucket. Signatures are not
 * valid on a CDN.
 *
 * @returns the corrected value and the mistake; `undefined` when the value is right
 */
export function bucketUrl({
  DO_SPACES_ENDPOINT: endpoint,
  DO_SPACES_BUCKET: bucket,
  DO_SPACES_URL: publicUrl,
}: BucketAddress): { readonly right: string; readonly mistake: string } | undefined {
  const url = parseUrl(publicUrl);
  if (!url || bucket === undefined) return undefined;
  const { before, region, cdn } = SPACES_HOST.exec(url.hostname)?.groups ?? {};
  if (region !== undefined) {
    const host = before ?? (pathOf(url) === '' ? bucket : undefined);
    const right = `${url.protocol}//${host === undefined ? '' : `${host}.`}${region}.digitaloceanspaces.com${pathOf(url)}`;
    if (cdn !== undefined) return { right, mistake: "must be the bucket's own address, not its CDN's" };
    if (before === undefined && host !== undefined) return { right, mistake: 'must name the bucket' };
    return undefined;
  }
  const name = bucket.toLowerCase();
  const containsBucket = url.hostname.startsWith(`${name}.`) || endsWithSegment(pathOf(url), name);
  if (!containsBucket && url.href === parseUrl(endpoint)?.href) {
    return { right: `${url.origin}${pathOf(url)}/${bucket}`, mistake: 'must name the bucket' };
  }
  return undefined;
}

/**
 * Whether the rest of a host after the bucket is a storage host. `storage.example.com` is not the bucket `storage` at
 * `example.com`. If the public URL has the bucket in its path, the bucket is not in the host.
 */
function isStorageHost(rest: string, bucket: string, publicUrl: URL | undefined): boolean {
  if (S3_HOST.test(rest)) return true;
  if (publicUrl && endsWithSegment(pathOf(publicUrl), bucket)) return false;
  return rest === 'localhost' || rest.split('.').length >= STORAGE_HOST_LABELS;
}

function endsWithSegment(path: string, segment: string): boolean {
  return path.toLowerCase().endsWith(`/${segment}`);
}

/** The path without trailing slashes. */
function pathOf({ pathname }: URL): string {
  return pathname.replace(/\/+$/, '');
}

function parseUrl(text: string | undefined): URL | undefined {
  return text !== undefined && URL.canParse(text) ? new URL(text) : undefined;
}
