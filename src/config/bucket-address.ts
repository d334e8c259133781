/** A region's own address at DigitalOcean, and what may stand before it: a bucket, a bucket's CDN. */
const SPACES_HOST = /^(?:(?<before>.+)\.)?(?<region>[a-z]+\d+)(?<cdn>\.cdn)?\.digitaloceanspaces\.com$/;

/** The beginning of S3's own addresses once the bucket is taken away, e.g. `s3.eu-central-1.amazonaws.com`. */
const S3_HOST = /^s3[.-]/;

/** From so many labels on, what follows the bucket in a host is taken for a storage's address, not for a domain. */
const STORAGE_HOST_LABELS = 3;

/** The variables that say where the bucket is. Whatever is malformed is left to the schema of its variable. */
type BucketAddress = {
  readonly DO_SPACES_ENDPOINT?: string | undefined;
  readonly DO_SPACES_BUCKET?: string | undefined;
  readonly DO_SPACES_URL?: string | undefined;
};

/**
 * The right `DO_SPACES_ENDPOINT`, where the given one names the bucket already. The service adds the bucket to the path, so such
 * an endpoint would lead to a bucket in the bucket.
 *
 * @returns the right value; `undefined` where nothing is wrong
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
 * The right `DO_SPACES_URL`, where the given one is the address of a CDN, which signatures are not made for, or names no bucket.
 *
 * @returns the right value, and what is wrong with the given one; `undefined` where nothing is
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
  const named = url.hostname.startsWith(`${name}.`) || endsWithSegment(pathOf(url), name);
  if (!named && url.href === parseUrl(endpoint)?.href) {
    return { right: `${url.origin}${pathOf(url)}/${bucket}`, mistake: 'must name the bucket' };
  }
  return undefined;
}

/**
 * Whether a host without the bucket before it is the storage's. `storage.example.com` is no bucket `storage` of
 * `example.com`; and where clients find the bucket by its path, the host is the storage's as it stands.
 */
function isStorageHost(rest: string, bucket: string, publicUrl: URL | undefined): boolean {
  if (S3_HOST.test(rest)) return true;
  if (publicUrl && endsWithSegment(pathOf(publicUrl), bucket)) return false;
  return rest === 'localhost' || rest.split('.').length >= STORAGE_HOST_LABELS;
}

function endsWithSegment(path: string, segment: string): boolean {
  return path.toLowerCase().endsWith(`/${segment}`);
}

/** The path without slashes at its end. */
function pathOf({ pathname }: URL): string {
  return pathname.replace(/\/+$/, '');
}

function parseUrl(text: string | undefined): URL | undefined {
  return text !== undefined && URL.canParse(text) ? new URL(text) : undefined;
}
