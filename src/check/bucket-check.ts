import { randomBytes, randomUUID } from 'node:crypto';
import { S3StorageProvider } from '../storage/s3-storage.provider.js';
import { StorageUnavailableError } from '../storage/storage-errors.js';
import { storageAdvice } from '../storage/storage-failure.js';
import type { S3Settings, Settings } from '../config/settings.js';
import { checkAnonymousList, checkAnonymousRead, checkCors, checkSignedUrl } from './bucket-access.js';
import { judgeClock } from './clock.js';
import { type Finding, ok, skipped, warning, wrong } from './finding.js';
import { get, NoResponseError } from './http-response.js';

/**
 * Inside the folder of pictures, where the key needs its rights. A separate folder, to recognize a remaining test object.
 */
const FOLDER = 'chat_images/check';
const OBJECT = { contentType: 'application/octet-stream' };
const OBJECT_BYTES = 1000;

const PING_TIMEOUT_MS = 10_000;
const SIGNED_URL_SECONDS = 120;

/** The response header Date has whole seconds. */
const DATE_RESOLUTION_MS = 1000;

/** Checks the bucket by writing a test object. The object is always removed. */
export async function* checkBucket(settings: Settings, storage: S3Settings): AsyncGenerator<Finding> {
  const provider = new S3StorageProvider(storage);
  try {
    const reached = await checkReached(provider);
    yield reached;
    yield await checkClock(storage);
    if (reached.status === 'wrong') {
      yield skipped('rest of the bucket', 'can not be looked at');
      return;
    }
    yield* checkObject(provider, settings, storage);
  } finally {
    provider.onApplicationShutdown();
  }
}

async function checkReached(provider: S3StorageProvider): Promise<Finding> {
  const name = 'bucket';
  try {
    await provider.ping(AbortSignal.timeout(PING_TIMEOUT_MS));
    return ok(name, 'answers at DO_SPACES_ENDPOINT, and takes the key');
  } catch (error) {
    const advice = adviceOn(error);
    // Only a warning: the service works without the right to list. The test object shows other missing rights.
    return error instanceof StorageUnavailableError && error.failure === 'access-denied'
      ? warning(name, advice)
      : wrong(name, advice);
  }
}

async function checkClock({ endpoint, bucket }: S3Settings): Promise<Finding> {
  const name = 'bucket clock';
  const askedAt = Date.now();
  try {
    const { headers } = await get(`${endpoint}/${bucket}/`);
    const theirs = Date.parse(headers.get('date') ?? '');
    if (Number.isNaN(theirs)) return skipped(name, 'the storage does not tell its time');
    return judgeClock(name, 'the storage', {
      theirs,
      resolutionMs: DATE_RESOLUTION_MS,
      askedAt,
      answeredAt: Date.now(),
    });
  } catch (error) {
    if (error instanceof NoResponseError) return skipped(name, 'the storage does not answer');
    throw error;
  }
}

async function* checkObject(
  provider: S3StorageProvider,
  settings: Settings,
  storage: S3Settings,
): AsyncGenerator<Finding> {
  const key = `${FOLDER}/${randomUUID()}`;
  let removed: Finding;
  try {
    yield* checkWritten(provider, key, settings, storage);
  } finally {
    // Even after a failed write: the object may exist.
    removed = await remove(provider, key);
  }
  yield removed;
}

async function* checkWritten(
  provider: S3StorageProvider,
  key: string,
  { corsOrigins, migration }: Settings,
  storage: S3Settings,
): AsyncGenerator<Finding> {
  const bytes = randomBytes(OBJECT_BYTES);
  const written = await attempt('bucket write', async () => {
    await provider.put(key, [bytes], OBJECT);
    return ok('bucket write', 'an object was written');
  });
  yield written;
  if (written.status !== 'ok') return;
  yield await attempt('bucket read', () => checkHead(provider, key));
  const { url } = await provider.signedUrl(key, SIGNED_URL_SECONDS, new Date());
  yield await checkSignedUrl(url, bytes, storage);
  yield await checkAnonymousRead(url.slice(0, url.indexOf('?')));
  yield await checkAnonymousList(storage.publicUrl, migration.phase);
  for (const origin of corsOrigins) yield await checkCors(url, origin);
  if (corsOrigins.length === 0) yield skipped('CORS', 'CORS_ORIGINS is not set, so no web app is expected');
}

async function checkHead(provider: S3StorageProvider, key: string): Promise<Finding> {
  const object = await provider.head(key);
  return object?.size === OBJECT_BYTES && object.contentType === OBJECT.contentType
    ? ok('bucket read', 'the object is there, with its size and type')
    : wrong(
        'bucket read',
        'the object is not there, or has another size or type, right after it was written',
      );
}

/** Removes the object, and checks that it is gone. */
async function remove(provider: S3StorageProvider, key: string): Promise<Finding> {
  const name = 'bucket delete';
  const refused = await provider.delete(key).then(
    () => undefined,
    (error: unknown) => adviceOn(error),
  );
  const stillExists = await provider.head(key).then(
    (object) => object !== undefined,
    () => true,
  );
  if (!stillExists) return ok(name, 'nothing is left of the object');
  return wrong(
    name,
    `the object may be left, remove it by hand: ${key}${refused === undefined ? '' : `; ${refused}`}`,
  );
}

async function attempt(name: string, check: () => Promise<Finding>): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    return wrong(name, adviceOn(error));
  }
}

function adviceOn(error: unknown): string {
  return storageAdvice(error instanceof StorageUnavailableError ? error.failure : 'unexpected');
}
