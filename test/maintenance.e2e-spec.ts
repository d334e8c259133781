import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../src/chat-images/dto/uploaded-chat-image.dto.js';
import { StorageProvider } from '../src/chat-images/storage/storage-provider.js';
import { picture } from './pictures.js';
import { RunningProcess } from './run-process.js';
import { APPOINTMENT, PATIENT, TEST_ENVIRONMENT, TestApp } from './test-app.js';

describe('the commands that look after the storage', () => {
  let test: TestApp;
  let storage: StorageProvider;
  let uploaded: UploadedChatImageDto;

  beforeAll(async () => {
    test = await TestApp.start({ UPLOAD_GRACE_SECONDS: '1' });
    storage = test.app.get(StorageProvider);
  });

  afterAll(() => test.stop());

  afterEach(async () => {
    // Each test begins with one whole image and nothing else.
    await test.database.query('DELETE FROM chat_images');
  });

  function storageFolder(): string {
    if (test.settings.storage.driver !== 'local') throw new Error('This suite runs on the local storage.');
    return test.settings.storage.directory;
  }

  async function run(...args: string[]): Promise<{ exit: number | null; output: string }> {
    const env = {
      ...TEST_ENVIRONMENT,
      DATABASE_URL: test.settings.database.url,
      LOCAL_STORAGE_DIR: storageFolder(),
      UPLOAD_GRACE_SECONDS: '1',
    };
    const child = new RunningProcess(args, { env, cwd: tmpdir() });
    return { exit: await child.exit, output: child.output };
  }

  const uploadOne = async (): Promise<void> => {
    const response = await test.upload(await picture('png'));
    ({ data: uploaded } = (await response.json()) as UploadedChatImageResponseDto);
  };

  /** Puts an object that has no row, an hour ago by its time. */
  async function orphan(): Promise<string> {
    const key = `chat_images/appointment_${APPOINTMENT}/orphan.png`;
    await storage.put(key, Buffer.from('nobody knows me'), { contentType: 'image/png' });
    const hourAgo = new Date(Date.now() - 3_600_000);
    await utimes(join(storageFolder(), 'objects', key), hourAgo, hourAgo);
    return key;
  }

  it('npm run reconcile has nothing to say of a storage in order', async () => {
    await uploadOne();
    const { exit, output } = await run('commands/reconcile.js');
    expect([exit, output]).toEqual([0, expect.stringMatching(/stored images\W+1\b/)]);
    expect(await storage.head(uploaded.file_path)).toBeDefined();
  });

  it('npm run reconcile removes uploads that never ended and objects without an image, and shows them first with --dry-run', async () => {
    await uploadOne();
    await test.database.query(
      `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, state, created_at)
       VALUES ($1, 'chat_images/appointment_145/pending.png', 'pending.png', $2, 1, 'image/png', 'pending', now() - interval '1 hour')`,
      [APPOINTMENT, PATIENT],
    );
    const key = await orphan();
    const dry = await run('commands/reconcile.js', '--dry-run');
    expect([dry.exit, dry.output]).toEqual([0, expect.stringContaining(key)]);
    expect(await storage.head(key)).toBeDefined();

    const wet = await run('commands/reconcile.js');
    expect([wet.exit, wet.output]).toEqual([0, expect.stringMatching(/never ended, removed\W+1\b/)]);
    expect(await storage.head(key)).toBeUndefined();
    expect(await storage.head(uploaded.file_path)).toBeDefined();
    expect(await test.database.query<unknown>('SELECT id, state FROM chat_images')).toEqual([
      { id: uploaded.id, state: 'stored' },
    ]);
  });

  it('npm run reconcile fails when an image has lost its object, and keeps the row', async () => {
    await uploadOne();
    await storage.delete(uploaded.file_path);
    const { exit, output } = await run('commands/reconcile.js');
    expect([exit, output]).toEqual([1, expect.stringContaining('Images have lost their objects')]);
    expect(output).toContain(uploaded.file_path);
    expect(await test.database.query<unknown[]>('SELECT 1 FROM chat_images')).toHaveLength(1);
  });

  it('npm run verify tells intact, changed and missing pictures apart', async () => {
    await uploadOne();
    expect(await run('commands/verify.js')).toEqual({
      exit: 0,
      output: expect.stringMatching(/intact\W+1\b/),
    });

    await storage.put(uploaded.file_path, Buffer.from('another picture'), { contentType: 'image/png' });
    const changed = await run('commands/verify.js', '--since', '2020-01-01');
    expect([changed.exit, changed.output]).toEqual([1, expect.stringMatching(/changed\W+1\b/)]);

    await storage.delete(uploaded.file_path);
    const missing = await run('commands/verify.js');
    expect([missing.exit, missing.output]).toEqual([1, expect.stringMatching(/missing\W+1\b/)]);

    const later = await run('commands/verify.js', '--since', '2999-01-01T00:00:00Z');
    expect([later.exit, later.output]).toEqual([0, expect.stringMatching(/intact\W+0\b/)]);
    expect(await run('commands/verify.js', '--since', 'yesterday')).toEqual({
      exit: 1,
      output: expect.stringMatching(/^Usage: /),
    });
  });
});
