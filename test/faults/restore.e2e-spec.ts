import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { chown, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { DataSource } from 'typeorm';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { loadDatabaseSettings } from '../../src/config/settings.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { UpkeepSchedule } from '../../src/upkeep/upkeep-schedule.js';
import { type EmbeddedDatabase, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { DOCTOR, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

jest.setTimeout(120_000);

describe('a database restored from a backup', () => {
  let test: TestApp;
  let proxy: CuttingProxy;
  let restored: EmbeddedDatabase | undefined;
  let backup: string;

  beforeAll(async () => {
    test = await TestApp.start({ SWEEP_INTERVAL_SECONDS: '0', UPLOAD_GRACE_SECONDS: '1' });
    proxy = await CuttingProxy.start({ host: '127.0.0.1', port: test.postgres.port });
    backup = `${test.postgres.directory}-backup`;
  });

  afterAll(async () => {
    await test.stop();
    await proxy.stop();
    await restored?.stop();
    await rm(backup, { recursive: true, force: true });
  });

  const dataOf = async (response: Response): Promise<UploadedChatImageDto> =>
    ((await response.json()) as UploadedChatImageResponseDto).data;

  /** Copies with owners and rights, as the server runs as another user when the tests run as root. */
  const copy = (from: string, to: string): void => void execFileSync('cp', ['-a', from, to]);

  /** A base backup of the running server, as `pg_basebackup` makes it. */
  async function backUp(): Promise<void> {
    const session = test.database.createQueryRunner();
    await session.query(`SELECT pg_backup_start('test', fast => true)`);
    copy(test.postgres.directory, backup);
    const [label] = (await session.query('SELECT labelfile FROM pg_backup_stop()')) as {
      labelfile: string;
    }[];
    await session.release();
    copy(`${test.postgres.directory}/pg_wal/.`, join(backup, 'pg_wal'));
    await rm(join(backup, 'postmaster.pid'));
    const file = join(backup, 'backup_label');
    await writeFile(file, label?.labelfile ?? '');
    const { uid, gid } = await stat(backup);
    await chown(file, uid, gid);
  }

  it('keeps pictures whose upload was pending, and the objects of newer pictures', async () => {
    const before = await dataOf(await test.upload(await picture('png')));
    // During the backup an upload has its row and its object, but is still pending.
    const through = new URL(test.settings.database.url);
    through.host = proxy.address;
    const direct = test.settings.database.url;
    await test.restart({ DATABASE_URL: through.href });
    proxy.fail({ how: 'hold', at: 'commit-stored' });
    const uploading = test.upload(await picture('png'));
    while (proxy.hits === 0) await setTimeout(10);
    await backUp();
    proxy.pass();
    const pending = await dataOf(await uploading);
    const after = await dataOf(await test.upload(await picture('png')));
    const storage = test.app.get(StorageProvider);

    // From here on only the backup is used.
    restored = await startEmbeddedPostgres({ directory: backup, password: 'throwaway' });
    const url = direct.replace(`:${test.postgres.port}/`, `:${restored.port}/`);
    const { storage: local } = test.settings;
    const command = new RunningProcess(['commands/reconcile.js', '--after-restore'], {
      env: {
        ...TEST_ENVIRONMENT,
        DATABASE_URL: url,
        LOCAL_STORAGE_DIR: local.driver === 'local' ? local.directory : '',
        UPLOAD_GRACE_SECONDS: '1',
      },
      cwd: tmpdir(),
    });
    expect([await command.exit, command.output]).toEqual([
      0,
      expect.stringContaining('1 are stored now. Still pending: 0.'),
    ]);

    await test.restart({ DATABASE_URL: url });
    const schedule = test.app.get(UpkeepSchedule);
    await schedule.run();
    await schedule.run();
    for (const { id } of [before, pending]) {
      const response = await test.fetch(`/api/chat-images/${id}/signed-url`, { as: DOCTOR });
      expect([id, response.status]).toEqual([id, 200]);
      const { data } = (await response.json()) as { data: { url: string } };
      expect((await fetch(data.url)).status).toBe(200);
    }
    // The row of the newer picture is lost, but not its object.
    expect((await test.fetch(`/api/chat-images/${after.id}/signed-url`, { as: DOCTOR })).status).toBe(404);
    expect(await storage.head(after.file_path)).toBeDefined();

    // A new picture does not get the number of the lost one.
    const database = await new DataSource(
      dataSourceOptions(loadDatabaseSettings({ DATABASE_URL: url }), ENTITIES),
    ).initialize();
    await database.query(await numbersGoOn());
    await database.destroy();
    const next = await dataOf(await test.upload(await picture('png')));
    expect(next.id).toBeGreaterThan(after.id);
    expect((await test.fetch(`/api/chat-images/${after.id}/signed-url`, { as: DOCTOR })).status).toBe(404);
  });
});

describe('a storage restored from a backup', () => {
  let test: TestApp;
  let folder: string;

  beforeAll(async () => {
    test = await TestApp.start({ SWEEP_INTERVAL_SECONDS: '0', UPLOAD_GRACE_SECONDS: '1' });
    const { storage } = test.settings;
    if (storage.driver !== 'local') throw new Error('This suite runs on the local storage.');
    folder = storage.directory;
  });

  afterAll(async () => {
    await test.stop();
    await rm(`${folder}-backup`, { recursive: true, force: true });
    await rm(`${folder}-lost`, { recursive: true, force: true });
  });

  async function run(program: string, ...args: string[]): Promise<[number | null, string]> {
    const command = new RunningProcess([`commands/${program}.js`, ...args], {
      env: {
        ...TEST_ENVIRONMENT,
        DATABASE_URL: test.settings.database.url,
        LOCAL_STORAGE_DIR: folder,
        UPLOAD_GRACE_SECONDS: '1',
      },
      cwd: tmpdir(),
    });
    return [await command.exit, command.output];
  }

  it('names later pictures, and those that were deleted and are back; no row is touched', async () => {
    const upload = async (): Promise<UploadedChatImageDto> =>
      ((await (await test.upload(await picture('png'))).json()) as UploadedChatImageResponseDto).data;
    const before = await upload();
    const deleted = await upload();
    execFileSync('cp', ['-a', folder, `${folder}-backup`]);
    const after = await upload();
    await test.database.query('DELETE FROM chat_images WHERE id = $1', [deleted.id]);
    // As if the deletion were of yesterday: its tombstone has done its work.
    await test.database.query('UPDATE chat_image_tombstones SET settled_at = now(), next_attempt_at = now()');
    await test.app.get(UpkeepSchedule).run();
    expect(await test.app.get(StorageProvider).head(deleted.file_path)).toBeUndefined();

    // The folder itself stays, as the service runs on it.
    execFileSync('cp', ['-a', folder, `${folder}-lost`]);
    await rm(join(folder, 'objects'), { recursive: true });
    execFileSync('cp', ['-a', `${folder}-backup/objects`, folder]);

    const [exit, report] = await run('reconcile');
    expect([exit, report]).toEqual([1, expect.stringContaining('Images have lost their objects')]);
    expect(report).toMatch(/images without their object\W+2\b/);
    expect(report).toContain(after.file_path);
    expect(report).toMatch(/form of a picture\W+1\b/);
    expect(report).toMatch(new RegExp(`picture +${deleted.file_path}`));
    expect(report).not.toContain(before.file_path);
    expect(await run('verify')).toEqual([1, expect.stringMatching(/'?missing'?\W+1\b/)]);
    expect(await run('explain', '--image', String(after.id), '--user', String(DOCTOR))).toEqual([
      2,
      expect.stringContaining('its object is missing.'),
    ]);

    // Another backup has the later picture. The deleted one goes once more.
    execFileSync('cp', ['-a', `${folder}-lost/objects`, folder]);
    expect(await run('reconcile', '--remove-unknown', '--older-than', '0s', '--yes')).toEqual([
      0,
      expect.stringContaining('Removed: 2 of 2.'),
    ]);
    expect(await test.app.get(StorageProvider).head(deleted.file_path)).toBeUndefined();
    expect((await run('reconcile'))[0]).toBe(0);
    expect((await run('verify'))[0]).toBe(0);
    for (const { id } of [before, after])
      expect((await test.fetch(`/api/chat-images/${id}/signed-url`, { as: DOCTOR })).status).toBe(200);
  });
});

/** The SQL of the runbook that lets the numbers of pictures go on. */
async function numbersGoOn(): Promise<string> {
  const page = await readFile('docs/runbooks/restore.md', 'utf8');
  const [, sql = ''] = /psql "\$DATABASE_DIRECT_URL" -c "(SELECT setval.*)"/.exec(page) ?? [];
  return sql;
}
