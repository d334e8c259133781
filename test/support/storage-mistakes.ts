import { expect } from '@jest/globals';
import { loadSettings } from '../../src/config/settings.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { S3StorageProvider } from '../../src/storage/s3-storage.provider.js';
import { StorageUnavailableError } from '../../src/storage/storage-errors.js';
import { RunningProcess } from './run-process.js';
import { TEST_ENVIRONMENT, type TestApp } from './test-app.js';

const providers: S3StorageProvider[] = [];
const running: RunningProcess[] = [];

/** The S3 storage of an environment, until {@link closeStorages}. */
export function storageOf(environment: NodeJS.ProcessEnv): S3StorageProvider {
  const { storage } = loadSettings({
    ...TEST_ENVIRONMENT,
    DATABASE_URL: 'postgres://localhost/none',
    ...environment,
  });
  if (storage.driver !== 's3') throw new Error('The settings are those of S3.');
  const provider = new S3StorageProvider(storage);
  providers.push(provider);
  return provider;
}

export const ping = (storage: S3StorageProvider): Promise<void> => storage.ping(AbortSignal.timeout(5000));
export const put = (storage: S3StorageProvider): Promise<void> =>
  storage.put('chat_images/a.png', [Buffer.from('x')], { contentType: 'image/png' });

/** Why the storage is not available. */
export async function failureOf(attempt: Promise<unknown>): Promise<string> {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof StorageUnavailableError)) throw new Error(`not that failure: ${String(error)}`);
  return error.failure;
}

export function closeStorages(): void {
  for (const provider of providers.splice(0)) provider.onApplicationShutdown();
}

/** Starts the service on the database of a test application, until {@link endServices}. */
export async function startService(
  test: TestApp,
  environment: NodeJS.ProcessEnv,
): Promise<RunningProcess & { port: number }> {
  const port = await freePort();
  const env = {
    ...TEST_ENVIRONMENT,
    DATABASE_URL: test.settings.database.url,
    SWEEP_INTERVAL_SECONDS: '0',
    ...environment,
    PORT: String(port),
  };
  const child = Object.assign(new RunningProcess(['main.js'], { env, cwd: '/' }), { port });
  running.push(child);
  return child;
}

/** Expects that the service does not start, and says why in a line without secrets. */
export async function expectRefusedStart(
  test: TestApp,
  environment: NodeJS.ProcessEnv,
  line: RegExp,
): Promise<void> {
  const child = await startService(test, environment);
  expect(await child.exit).toBe(1);
  expect(child.output).toMatch(line);
  expect(child.output).not.toMatch(/"listening"|\n +at |the-secret|the-access-key/);
}

export async function endServices(): Promise<void> {
  for (const child of running.splice(0)) {
    child.signal('SIGKILL');
    await child.exit;
  }
}
