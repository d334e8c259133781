import type { MigrationPhase, S3Settings } from '../config/settings.js';
import { type Finding, ok, skipped, warning, wrong } from './finding.js';
import { get, NoResponseError } from './http-response.js';

/** Start of a bucket listing, on every S3 server. */
const LIST = '<ListBucketResult';

/** From this phase on, old pictures need not be public. */
const PRIVATE_FROM_PHASE = 3;

/** Checks that a signed URL works at DO_SPACES_URL and returns the written bytes. */
export async function checkSignedUrl(
  url: string,
  bytes: Buffer,
  { endpoint, bucket }: S3Settings,
): Promise<Finding> {
  const name = 'signed URL';
  const response = await attempt(name, url);
  if ('name' in response) return response;
  if (response.status === 200) {
    return response.bytes.equals(bytes)
      ? ok(name, 'reads back at DO_SPACES_URL what was written')
      : wrong(name, 'something else answers at DO_SPACES_URL: write the address of the bucket itself');
  }
  const right = `one of them is right: ${withBucketHost(endpoint, bucket)} or ${endpoint}/${bucket}`;
  if (response.status === 404)
    return wrong(name, `DO_SPACES_URL is not the address of DO_SPACES_BUCKET (404); ${right}`);
  if (response.status === 403 || response.status === 400) {
    return wrong(
      name,
      `refused at DO_SPACES_URL (${response.status}), as where something between changes the host, such as a CDN; ${right}`,
    );
  }
  return wrong(name, `answered ${response.status} at DO_SPACES_URL; ${right}`);
}

/** Checks that an object can't be read without a signature. */
export async function checkAnonymousRead(url: string): Promise<Finding> {
  const name = 'anonymous read';
  const response = await attempt(name, url);
  if ('name' in response) return response;
  if (isRefusal(response.status)) return ok(name, 'refused');
  return response.status === 200
    ? wrong(
        name,
        'anybody can read a picture without a signature: remove the policy of the bucket that lets them, and any public gateway',
      )
    : warning(name, `answered ${response.status} instead of being refused: look what is at DO_SPACES_URL`);
}

/** Checks that the bucket can't be listed without a signature. */
export async function checkAnonymousList(publicUrl: string, phase: MigrationPhase): Promise<Finding> {
  const name = 'anonymous list';
  const response = await attempt(name, `${publicUrl}/?list-type=2&max-keys=1`);
  if ('name' in response) return response;
  if (isRefusal(response.status)) return ok(name, 'refused');
  if (response.status === 200 && response.bytes.includes(LIST)) {
    return wrong(
      name,
      `anybody can list the bucket: restrict its file listing${
        phase < PRIVATE_FROM_PHASE
          ? `; in MIGRATION_PHASE=${phase} the old pictures are public there, and anybody finds them all, until phase ${PRIVATE_FROM_PHASE}`
          : ''
      }`,
    );
  }
  return warning(name, `answered ${response.status} instead of being refused: look what is at DO_SPACES_URL`);
}

/** Checks with a browser's request that pages of an origin may read pictures. */
export async function checkCors(url: string, origin: string): Promise<Finding> {
  const name = `CORS ${origin}`;
  const response = await attempt(name, url, { origin });
  if ('name' in response) return response;
  const allowed = response.headers.get('access-control-allow-origin');
  return allowed === origin || allowed === '*'
    ? ok(name, 'its pages may read pictures from the bucket')
    : wrong(
        name,
        `the bucket lets no page of this origin read pictures: add a CORS rule to the bucket with this origin and the method GET`,
      );
}

/** The response, or the finding that there is no response. */
async function attempt(
  name: string,
  url: string,
  headers?: Readonly<Record<string, string>>,
): Promise<Awaited<ReturnType<typeof get>> | Finding> {
  try {
    return await get(url, headers);
  } catch (error) {
    if (!(error instanceof NoResponseError)) throw error;
    return isLoopback(url)
      ? skipped(
          name,
          'DO_SPACES_URL is an address of this machine, where nothing answers: run this beside the storage',
        )
      : wrong(name, `DO_SPACES_URL does not answer (${error.reason}): check the address`);
  }
}

function isRefusal(status: number): boolean {
  return status >= 400 && status < 500;
}

function isLoopback(url: string): boolean {
  return /^(localhost|127\..*|\[::1\])$/.test(new URL(url).hostname);
}

function withBucketHost(endpoint: string, bucket: string): string {
  return endpoint.replace('://', `://${bucket}.`);
}
