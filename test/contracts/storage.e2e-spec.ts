import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createHash, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LocalStorageProvider } from '../../src/storage/local-storage.provider.js';
import { S3StorageProvider } from '../../src/storage/s3-storage.provider.js';
import { StorageUnavailableError } from '../../src/storage/storage-errors.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { loadSettings, type S3Settings } from '../../src/config/settings.js';
import { describeStorageContract } from './storage-contract.js';
import { REQUIRED_STORAGES, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

describe.each(REQUIRED_STORAGES)('the $name storage', ({ name, environment }) => {
  if (!environment) {
    it.skip('keeps the contract of the StorageProvider (skipped without S3_ENDPOINT)', () => undefined);
    return;
  }
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start(environment);
  });

  afterAll(() => test.stop());

  describeStorageContract(() => test.app.get(StorageProvider));

  if (name !== 's3') return;
  it('refuses bytes that are not those of the digest, since the signature holds the digest', async () => {
    const storage = test.app.get(StorageProvider);
    const key = `contract/${randomUUID()}.png`;
    const sha256 = createHash('sha256').update('the picture').digest('hex');
    const put = (bytes: string): Promise<void> =>
      storage.put(key, [Buffer.from(bytes)], { contentType: 'image/png', sha256 });
    await expect(put('the pictuRe')).rejects.toBeInstanceOf(StorageUnavailableError);
    expect(await storage.head(key)).toBeUndefined();
    await put('the picture');
    expect(await storage.digest(key)).toBe(sha256);
  });
});

describe('the local storage', () => {
  it('lists nothing when it is empty, and fails when its folder is missing', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'chat-image-store-storage-'));
    const storage = new LocalStorageProvider({ directory, secret: 'secret' }, 'http://localhost');
    expect(await storage.list('chat_images/').next()).toEqual({ done: true, value: undefined });
    await rm(directory, { recursive: true });
    await expect(storage.list('chat_images/').next()).rejects.toBeInstanceOf(StorageUnavailableError);
  });
});

describe('the S3 storage, when the server does not answer', () => {
  let silent: Server;
  const accepted: Socket[] = [];
  let settings: S3Settings;

  beforeAll(async () => {
    silent = createServer((socket) => accepted.push(socket));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const address = silent.address();
    const port = typeof address === 'object' && address ? address.port : 0;
    const { storage } = loadSettings({
      ...TEST_ENVIRONMENT,
      DATABASE_URL: 'postgres://localhost/none',
      STORAGE_DRIVER: 's3',
      DO_SPACES_KEY: 'key',
      DO_SPACES_SECRET: 'secret',
      DO_SPACES_ENDPOINT: `http://127.0.0.1:${port}`,
      DO_SPACES_REGION: 'fra1',
      DO_SPACES_BUCKET: 'bucket',
      DO_SPACES_URL: 'https://bucket.example.com/deep/path',
      STORAGE_REQUEST_TIMEOUT_MS: '200',
      STORAGE_MAX_ATTEMPTS: '2',
    });
    if (storage.driver !== 's3') throw new Error('The settings are those of S3.');
    settings = storage;
  });

  afterAll(() => {
    silent.close();
    for (const socket of accepted) socket.destroy();
  });

  it('fails after its timeout and its retries', async () => {
    const storage = new S3StorageProvider(settings);
    await expect(storage.put('key', [Buffer.from('x')], { contentType: 'image/png' })).rejects.toBeInstanceOf(
      StorageUnavailableError,
    );
    await expect(storage.head('key')).rejects.toBeInstanceOf(StorageUnavailableError);
    storage.onApplicationShutdown();
  });

  it('fails when nothing listens', async () => {
    const storage = new S3StorageProvider({ ...settings, endpoint: 'http://127.0.0.1:1' });
    await expect(storage.ping(AbortSignal.timeout(5000))).rejects.toBeInstanceOf(StorageUnavailableError);
    storage.onApplicationShutdown();
  });

  it('signs URLs for the public address without asking the server', async () => {
    const storage = new S3StorageProvider(settings);
    const { url } = await storage.signedUrl(
      'chat_images/appointment_1/a b.jpg',
      3600,
      new Date('2026-02-03T04:05:06Z'),
    );
    expect(url).toMatch(
      /^https:\/\/bucket\.example\.com\/deep\/path\/chat_images\/appointment_1\/a%20b\.jpg\?X-Amz-Algorithm=AWS4-HMAC-SHA256&/,
    );
    expect(url).toContain('X-Amz-Date=20260203T040506Z&X-Amz-Expires=3600&');
    expect(url).not.toContain('checksum');
  });
});
