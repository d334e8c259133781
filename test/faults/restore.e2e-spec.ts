import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { chown, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { UpkeepSchedule } from '../../src/upkeep/upkeep-schedule.js';
import { type EmbeddedDatabase, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { DOCTOR, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

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
  });
});
