import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { APPOINTMENT, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

/** Node options that shift the clock of a process by so many seconds. */
function shiftedClock(seconds: number): string {
  const module = `
    const { now } = Date;
    const shifted = () => now() + ${seconds * 1000};
    globalThis.Date = class extends Date {
      constructor(...values) {
        super(...(values.length === 0 ? [shifted()] : values));
      }
      static now() {
        return shifted();
      }
    };`;
  return `--import=data:text/javascript,${encodeURIComponent(module)}`;
}

describe('an instance with a wrong clock', () => {
  let test: TestApp;
  let proxy: CuttingProxy;
  let neighbour: RunningProcess | undefined;

  beforeAll(async () => {
    test = await TestApp.start({ SWEEP_INTERVAL_SECONDS: '0' });
    proxy = await CuttingProxy.start({ host: '127.0.0.1', port: test.postgres.port });
    const url = new URL(test.settings.database.url);
    url.host = proxy.address;
    await test.restart({ DATABASE_URL: url.href });
  });

  afterEach(async () => {
    proxy.pass();
    neighbour?.signal('SIGKILL');
    await neighbour?.exit;
    neighbour = undefined;
  });

  afterAll(async () => {
    await test.stop();
    await proxy.stop();
  });

  const environment = (seconds: number): NodeJS.ProcessEnv => {
    const { storage, database } = test.settings;
    return {
      ...TEST_ENVIRONMENT,
      NODE_OPTIONS: shiftedClock(seconds),
      APP_URL: test.settings.appUrl,
      DATABASE_URL: database.url.replace(proxy.address, `127.0.0.1:${test.postgres.port}`),
      LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : undefined,
    };
  };

  async function startNeighbour(seconds: number): Promise<string> {
    const port = await freePort();
    neighbour = new RunningProcess(['main.js'], {
      env: { ...environment(seconds), PORT: String(port), SWEEP_INTERVAL_SECONDS: '1' },
      cwd: tmpdir(),
    });
    await neighbour.printed(/"listening"/);
    return `http://127.0.0.1:${port}`;
  }

  /** Waits for a sweep of the neighbour that begins after this call. */
  async function sweptOnce(): Promise<void> {
    const key = `chat_images/appointment_1/${randomUUID()}.png`;
    await test.database.query(
      'INSERT INTO chat_image_tombstones (object_key, settled_at) VALUES ($1, now())',
      [key],
    );
    const left = 'SELECT FROM chat_image_tombstones WHERE object_key = $1';
    while ((await test.database.query<unknown[]>(left, [key])).length > 0) await setTimeout(20);
  }

  it.each([130, -130])(
    'logs a shift of %s seconds at start, and leaves uploads of other instances alone',
    async (seconds) => {
      const url = await startNeighbour(seconds);
      const side = seconds > 0 ? 'ahead of' : 'behind';
      expect(neighbour?.output).toMatch(
        new RegExp(
          `"level":"error".*this machine's clock is 1[23]\\d\\.\\d s ${side} that of the database: let both follow NTP`,
        ),
      );
      const bytes = await picture('png');
      proxy.fail({ how: 'hold', at: 'commit-stored' });
      const upload = test.upload(bytes);
      while (proxy.hits === 0) await setTimeout(10);
      for (let sweeps = 0; sweeps < 2; sweeps += 1) await sweptOnce();
      // An instance that is behind refuses the tokens, which are from its future.
      const copy = seconds > 0 ? uploadTo(url, bytes) : undefined;
      const states = 'SELECT state FROM chat_images';
      expect(await test.database.query(states)).toEqual([{ state: 'pending' }]);
      proxy.pass();
      const { data } = (await (await upload).json()) as UploadedChatImageResponseDto;
      expect((await copy) ?? data.id).toBe(data.id);
      expect(await test.database.query(states)).toEqual([{ state: 'stored' }]);
      await test.database.query('DELETE FROM chat_images');
    },
  );

  it('deletes unknown objects only by their age on the database clock', async () => {
    const key = 'chat_images/appointment_1/1700000000_NobodysPic.png';
    const storage = test.app.get(StorageProvider);
    await storage.put(key, [Buffer.from('x')], { contentType: 'image/png' });
    const { storage: settings } = test.settings;
    if (settings.driver !== 'local') throw new Error('This suite runs on the local storage.');
    const halfAnHourAgo = new Date(Date.now() - 1_800_000);
    await utimes(join(settings.directory, 'objects', key), halfAnHourAgo, halfAnHourAgo);
    const remove = async (olderThan: string): Promise<string> => {
      const child = new RunningProcess(
        ['commands/reconcile.js', '--remove-unknown', '--older-than', olderThan, '--yes'],
        { env: environment(7200), cwd: tmpdir() },
      );
      await child.exit;
      return child.output;
    };
    expect(await remove('1h')).toBe('There is nothing to remove.\n');
    expect(await remove('20m')).toContain('Removed: 1 of 1.');
  });

  async function uploadTo(url: string, bytes: Buffer): Promise<number> {
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }), 'photo.jpg');
    form.append('appointment_id', String(APPOINTMENT));
    const headers = { authorization: `Bearer ${test.token(PATIENT)}` };
    const response = await fetch(`${url}/api/upload/chat-image`, { method: 'POST', body: form, headers });
    return ((await response.json()) as UploadedChatImageResponseDto).data.id;
  }
});
