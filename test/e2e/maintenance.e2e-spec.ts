import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

/** Each test starts several commands, one after the other. */
const TIMEOUT_MS = 120_000;

jest.setTimeout(TIMEOUT_MS);

describe('the storage commands', () => {
  let test: TestApp;
  let storage: StorageProvider;
  let uploaded: UploadedChatImageDto;

  beforeAll(async () => {
    test = await TestApp.start({ UPLOAD_GRACE_SECONDS: '1' });
    storage = test.app.get(StorageProvider);
  });

  afterAll(() => test.stop());

  afterEach(async () => {
    // Each test begins without images.
    await test.database.query('DELETE FROM chat_images');
  });

  function storageFolder(): string {
    if (test.settings.storage.driver !== 'local') throw new Error('This suite runs on the local storage.');
    return test.settings.storage.directory;
  }

  /** @param args a program's name, its arguments, and variables of its environment as NAME=value */
  async function run(...args: string[]): Promise<{ exit: number | null; output: string }> {
    const isVariable = (text: string): boolean => /^[A-Z_]+=/.test(text);
    const variables = args.filter(isVariable).map((text) => text.split('='));
    const env = {
      ...TEST_ENVIRONMENT,
      DATABASE_URL: test.settings.database.url,
      LOCAL_STORAGE_DIR: storageFolder(),
      UPLOAD_GRACE_SECONDS: '1',
      ...(Object.fromEntries(variables) as NodeJS.ProcessEnv),
    };
    const child = new RunningProcess(
      args.filter((text) => !isVariable(text)),
      { env, cwd: tmpdir() },
    );
    return { exit: await child.exit, output: child.output };
  }

  const uploadOne = async (): Promise<void> => {
    const response = await test.upload(await picture('png'));
    ({ data: uploaded } = (await response.json()) as UploadedChatImageResponseDto);
  };

  /** Objects of others in the same folder: four pictures of the old system, and three other files. */
  const OTHERS = [
    'chat_images/appointment_145/1700000000_AbCdEfGh12.jpg',
    'chat_images/appointment_145/1700000000_AbCdEfGh12.JPG',
    'chat_images/appointment_145/1700000000_AbCdEfGh13',
    'chat_images/text_session_7/1700000000_AbCdEfGh14.jpeg',
    'chat_images/appointment_145/readme.txt',
    'chat_images/thumbs/1700000000_AbCdEfGh12.jpg',
    'chat_images/appointment_145/thumbs/1700000000_AbCdEfGh12.jpg',
  ];

  /** Stores an object without a row, with a modification time an hour ago. */
  async function orphan(key: string): Promise<string> {
    await storage.put(key, [Buffer.from('nobody knows me')], { contentType: 'image/png' });
    const hourAgo = new Date(Date.now() - 3_600_000);
    await utimes(join(storageFolder(), 'objects', key), hourAgo, hourAgo);
    return key;
  }

  it('npm run reconcile exits with 0 when the storage matches the database', async () => {
    await uploadOne();
    const { exit, output } = await run('commands/reconcile.js');
    expect([exit, output]).toEqual([0, expect.stringMatching(/stored images\W+1\b/)]);
    expect(await storage.head(uploaded.file_path)).toBeDefined();
  });

  it('npm run reconcile lists objects without a row by kind, and deletes none', async () => {
    await uploadOne();
    const keys = await Promise.all(OTHERS.map(orphan));
    for (const args of [[], ['--dry-run'], ['--after-restore']]) {
      const { exit, output } = await run('commands/reconcile.js', ...args);
      expect([exit, output]).toEqual([0, expect.stringMatching(/no row names\W+7\b/)]);
      expect(output).toMatch(/form of a picture\W+4\b[^]*another name\W+1\b[^]*another folder\W+2\b/);
      for (const key of keys) expect(output).toContain(key);
    }
    for (const key of keys) expect(await storage.head(key)).toBeDefined();
  });

  it('npm run reconcile -- --remove-unknown deletes the listed objects only with --yes', async () => {
    await uploadOne();
    const keys = await Promise.all(OTHERS.map(orphan));
    const remove = (...args: string[]): ReturnType<typeof run> =>
      run('commands/reconcile.js', '--remove-unknown', ...args);
    // An object must be 30 days old by default.
    expect(await remove('--yes')).toEqual({ exit: 0, output: 'There is nothing to remove.\n' });
    const unasked = await remove('--older-than', '30m');
    expect([unasked.exit, unasked.output]).toEqual([1, expect.stringContaining('nobody can be asked here')]);
    for (const key of keys) expect(unasked.output).toContain(key);
    for (const key of keys) expect(await storage.head(key)).toBeDefined();

    const limited = await remove('--older-than', '30m', '--limit', '2', '--yes');
    expect([limited.exit, limited.output]).toEqual([0, expect.stringContaining('Removed: 2 of 2.')]);
    const rest = await remove('--older-than', '30m', '--yes');
    expect([rest.exit, rest.output]).toEqual([0, expect.stringContaining('Removed: 5 of 5.')]);
    for (const key of keys) expect(await storage.head(key)).toBeUndefined();
    expect(await storage.head(uploaded.file_path)).toBeDefined();
  });

  it('npm run reconcile -- --remove-unknown keeps old pictures that are not imported yet', async () => {
    const keys = await Promise.all(OTHERS.map(orphan));
    const { exit, output } = await run(
      'commands/reconcile.js',
      ...['--remove-unknown', '--older-than', '30m', '--yes', 'MIGRATION_PHASE=2'],
    );
    expect([exit, output]).toEqual([0, expect.stringContaining('Removed: 3 of 3.')]);
    const left = await Promise.all(keys.map(async (key) => (await storage.head(key)) !== undefined));
    expect(left).toEqual([true, true, true, true, false, false, false]);
    for (const key of keys) await storage.delete(key);
  });

  it('npm run reconcile reports an unavailable database or storage in one line', async () => {
    const down = await run('commands/reconcile.js', 'DATABASE_URL=postgres://u:p@127.0.0.1:1/x');
    expect([down.exit, down.output.trim().split('\n')]).toEqual([
      1,
      [expect.stringMatching(/^The database does not answer: /)],
    ]);
    const silent = await run(
      'commands/reconcile.js',
      ...[
        'STORAGE_DRIVER=s3',
        'STORAGE_MAX_ATTEMPTS=1',
        'DO_SPACES_KEY=k',
        'DO_SPACES_SECRET=s',
        'DO_SPACES_REGION=r',
      ],
      ...[
        'DO_SPACES_ENDPOINT=http://127.0.0.1:1',
        'DO_SPACES_BUCKET=b',
        'DO_SPACES_URL=http://127.0.0.1:1/b',
      ],
    );
    expect([silent.exit, silent.output.trim().split('\n').at(-1)]).toEqual([
      1,
      'The storage does not answer: check DO_SPACES_ENDPOINT, the network, and that the storage is running.',
    ]);
    expect(silent.output).not.toMatch(/\n +at /);
  });

  it.each([
    ['--older-than', '30d'],
    ['--yes'],
    ['--remove-unknown', '--older-than', 'yesterday'],
    ['--remove-unknown', '--limit', '0'],
    ['--remove-unknown', '--after-restore'],
    ['--remove'],
  ])('npm run reconcile prints its usage for the arguments %s %s', async (...args) => {
    expect(await run('commands/reconcile.js', ...args.filter(Boolean))).toEqual({
      exit: 1,
      output: expect.stringMatching(/^Usage: /),
    });
  });

  it('npm run reconcile exits with 1 when an object is missing, and keeps its row', async () => {
    await uploadOne();
    await storage.delete(uploaded.file_path);
    const { exit, output } = await run('commands/reconcile.js');
    expect([exit, output]).toEqual([1, expect.stringContaining('Images have lost their objects')]);
    expect(output).toContain(uploaded.file_path);
    expect(await test.database.query<unknown[]>('SELECT 1 FROM chat_images')).toHaveLength(1);
  });

  it('npm run verify counts intact, changed and missing pictures', async () => {
    await uploadOne();
    expect(await run('commands/verify.js')).toEqual({
      exit: 0,
      output: expect.stringMatching(/intact\W+1\b/),
    });

    await storage.put(uploaded.file_path, [Buffer.from('another picture')], { contentType: 'image/png' });
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
