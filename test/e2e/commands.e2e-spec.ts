import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { generateKeyPairSync } from 'node:crypto';
import { chmod, mkdtemp, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dataDirectory, freePort } from '../../src/dev/embedded-postgres.js';
import { migrateDown } from '../../src/database/migrate.js';
import { picture } from '../support/pictures.js';
import { isPortOpen } from '../support/port-open.js';
import { beginUpload, Client } from '../support/raw-clients.js';
import { RunningProcess } from '../support/run-process.js';
import {
  APPOINTMENT,
  DOCTOR,
  JWT_SECRET,
  OUTSIDER,
  PATIENT,
  TEST_ENVIRONMENT,
  TestApp,
} from '../support/test-app.js';

const running: RunningProcess[] = [];

function start(
  args: string[],
  options: ConstructorParameters<typeof RunningProcess>[1] = {},
): RunningProcess {
  const child = new RunningProcess(args, options);
  running.push(child);
  return child;
}

afterEach(async () => {
  for (const child of running.splice(0)) {
    child.signal('SIGKILL');
    await child.exit;
  }
});

describe('npm start', () => {
  /** The tests use only its database. */
  let test: TestApp;
  let folder: string;

  beforeAll(async () => {
    test = await TestApp.start();
    folder = await mkdtemp(join(tmpdir(), 'chat-image-store-'));
  });

  afterAll(async () => {
    await test.stop();
    await rm(folder, { recursive: true });
  });

  const environment = async (
    over: NodeJS.ProcessEnv = {},
  ): Promise<NodeJS.ProcessEnv & { PORT: string }> => ({
    ...TEST_ENVIRONMENT,
    NODE_ENV: 'production',
    DATABASE_URL: test.settings.database.url,
    LOCAL_STORAGE_DIR: folder,
    ...over,
    PORT: String(await freePort()),
  });

  it('exits with one line for each wrong setting, without its value', async () => {
    const child = start(['main.js'], {
      env: {
        PORT: 'three',
        JWT_SECRET: 'short-secret',
        DATABASE_URL: 'mysql://root:hunter2@db/x',
        DO_SPACES_KEY: 'k',
      },
      cwd: folder,
    });
    expect(await child.exit).toBe(1);
    const lines = child.output
      .trim()
      .split('\n')
      .filter((line) => /^[A-Z_]+ /.test(line));
    expect(lines.map((line) => line.split(' ')[0]).sort()).toEqual([
      'APP_URL',
      'DATABASE_URL',
      'DO_SPACES_BUCKET',
      'DO_SPACES_ENDPOINT',
      'DO_SPACES_REGION',
      'DO_SPACES_SECRET',
      'DO_SPACES_URL',
      'JWT_SECRET',
      'PORT',
    ]);
    expect(child.output).not.toMatch(/hunter2|short-secret|three|\n +at /);
  });

  it('exits with one line that says what TRUST_PROXY must be', async () => {
    const child = start(['main.js'], { env: await environment({ TRUST_PROXY: 'true' }), cwd: folder });
    expect([await child.exit, child.output]).toEqual([
      1,
      expect.stringMatching(
        /^TRUST_PROXY must be a number of proxies, .* or comma-separated addresses .*\n$/,
      ),
    ]);
  });

  it('warns in production of plain HTTP and of guessable secrets, as npm run check does', async () => {
    const careless = {
      JWT_SECRET: 'changeme'.repeat(5),
      LOCAL_STORAGE_SECRET: 'x'.repeat(32),
      LOG_LEVEL: 'warn',
    };
    const service = start(['main.js'], { env: await environment(careless), cwd: folder });
    // This is the last warning of the start.
    await service.printed(/the local storage driver keeps/);
    service.signal('SIGTERM');
    await service.exit;
    expect(
      service.output.match(/"level":"warn".*(APP_URL is no|JWT_SECRET can|LOCAL_STORAGE_SECRET can)/g),
    ).toHaveLength(3);
    expect(service.output).not.toContain('changeme');
    const check = start(['commands/check.js'], { env: await environment(careless), cwd: folder });
    await check.exit;
    expect(check.output).toMatch(/^warning +encryption +APP_URL is no https address/m);
    expect(check.output).toMatch(/^warning +secrets +JWT_SECRET can be guessed/m);
    expect(check.output).toMatch(/^warning +secrets +LOCAL_STORAGE_SECRET can be guessed/m);
    expect(check.output).not.toContain('changeme');
  });

  it('exits with a message when its port is in use', async () => {
    const env = await environment();
    const holder = createServer().listen(Number(env.PORT));
    const child = start(['main.js'], { env, cwd: folder });
    expect(await child.exit).toBe(1);
    expect(child.output).toContain(`Port ${env.PORT} is in use`);
    holder.close();
  });

  it('exits with a message when the database does not answer', async () => {
    const child = start(['main.js'], {
      env: await environment({ DATABASE_URL: 'postgres://u:hunter2@127.0.0.1:1/x' }),
      cwd: folder,
    });
    expect(await child.exit).toBe(1);
    expect(child.output).toContain('The database does not answer');
    expect(child.output).not.toContain('hunter2');
  });

  it('exits with a message when the database refuses the password', async () => {
    const child = start(['main.js'], {
      env: await environment({ DATABASE_URL: test.settings.database.url.replace(/:[^:@]+@/, ':hunter2@') }),
      cwd: folder,
    });
    expect(await child.exit).toBe(1);
    expect(child.output).toContain('The database refuses the user or password');
    expect(child.output).not.toContain('hunter2');
  });

  it('finishes open requests on SIGTERM, accepts no new connection, and exits with 0', async () => {
    const env = await environment({ SHUTDOWN_DELAY_MS: '0' });
    const child = start(['main.js'], { env, cwd: folder });
    await child.printed(/"listening"/);
    const upload = new Client(test, Number(env.PORT));
    const finish = await beginUpload(upload);
    child.signal('SIGTERM');
    while (await isPortOpen(Number(env.PORT)));
    await expect(fetch(`http://127.0.0.1:${env.PORT}/api/health`)).rejects.toThrow('fetch failed');
    await finish();
    const [answer] = await upload.answersUntilClosed();
    expect([answer?.status, answer?.headers.get('connection'), answer?.body]).toEqual([
      200,
      'close',
      expect.stringContaining('"success":true'),
    ]);
    expect(await child.exit).toBe(0);
  });

  it('exits after SHUTDOWN_TIMEOUT_MS although a client has stopped sending', async () => {
    const env = await environment({ SHUTDOWN_DELAY_MS: '0', SHUTDOWN_TIMEOUT_MS: '2000' });
    const child = start(['main.js'], { env, cwd: folder });
    await child.printed(/"listening"/);
    const upload = new Client(test, Number(env.PORT));
    await beginUpload(upload);
    child.signal('SIGTERM');
    expect(await child.exit).toBe(0);
    expect((await upload.answersUntilClosed()).map(({ status }) => status)).not.toContain(200);
  });
});

describe('npm run migrate', () => {
  it('migrates up and down, and prints what it did', async () => {
    const test = await TestApp.start();
    try {
      // The command needs only this variable.
      const env = { DATABASE_URL: await test.postgres.database('other') };
      const migrate = async (...args: string[]): Promise<string> => {
        const child = start(['commands/migrate.js', ...args], { env, cwd: tmpdir() });
        expect(await child.exit).toBe(0);
        return child.output;
      };
      expect(await migrate()).toMatch(/^Migrated up: .*ChatImages/);
      expect(await migrate('up')).toBe('Nothing to migrate.\n');
      expect(await migrate('down')).toMatch(/^Migrated down: /);
      expect(await migrate('up')).toMatch(/^Migrated up: /);
      const wrong = [['sideways'], ['up', '--yes-drop-data']].map(async (args) => {
        const child = start(['commands/migrate.js', ...args], { env, cwd: tmpdir() });
        return [await child.exit, child.output];
      });
      const refused = [1, expect.stringMatching(/^Usage: /)];
      expect(await Promise.all(wrong)).toEqual([refused, refused]);
    } finally {
      await test.stop();
    }
  });

  it('refuses to drop rows without --yes-drop-data, and prints their number', async () => {
    const test = await TestApp.start();
    try {
      for (let count = 0; count < 2; count += 1) await test.upload(await picture('png'));
      const env = { DATABASE_URL: test.settings.database.url };
      const down = async (...args: string[]): Promise<[number | null, string]> => {
        const child = start(['commands/migrate.js', 'down', ...args], { env, cwd: tmpdir() });
        return [await child.exit, child.output];
      };
      // Migrates down to the migration whose tables hold the pictures.
      const rows = 'SELECT FROM chat_images JOIN chat_image_access ON chat_image_id = chat_images.id';
      for (let newest = ''; !newest.startsWith('UploadSafety');)
        [newest = ''] = await migrateDown(test.database, { dropData: true });
      expect(await down()).toEqual([
        1,
        'Nothing was migrated: 2 rows of chat_image_access, 2 rows of chat_images would be dropped for good. ' +
          'Where that is meant: npm run migrate -- down --yes-drop-data\n',
      ]);
      expect(await test.database.query(rows)).toHaveLength(2);
      expect(await down('--yes-drop-data')).toEqual([0, 'Migrated down: ChatImages1762300000001\n']);
      await expect(test.database.query(rows)).rejects.toThrow('does not exist');
    } finally {
      await test.stop();
    }
  });
});

describe('npm run seed', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start();
  });

  afterAll(() => test.stop());

  const environment = (over: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({
    ...TEST_ENVIRONMENT,
    DATABASE_URL: test.settings.database.url,
    LOCAL_STORAGE_DIR: test.settings.storage.driver === 'local' ? test.settings.storage.directory : '',
    ...over,
  });

  const seed = async (over: NodeJS.ProcessEnv = {}, ...args: string[]): Promise<[number | null, string]> => {
    const child = start(['dev/seed.js', ...args], { env: environment(over), cwd: tmpdir() });
    return [await child.exit, child.output];
  };

  it.each(['production', ''])('adds nothing with NODE_ENV=%s', async (NODE_ENV) => {
    expect(await seed({ NODE_ENV })).toEqual([
      1,
      expect.stringMatching(/^Sample data is for development and is not added with NODE_ENV=production/),
    ]);
    expect(await test.database.query('SELECT FROM chat_images')).toEqual([]);
  });

  it('prints its usage for any argument', async () => {
    expect(await seed({}, '--force')).toEqual([1, expect.stringMatching(/^Usage: /)]);
  });

  it('adds users, an appointment and two pictures to a new database, only once', async () => {
    await test.database.query('DELETE FROM appointments');
    await test.database.query('DELETE FROM users WHERE id <> $1', [DOCTOR]);
    expect(await seed()).toEqual([0, 'Added 2 sample pictures.\n']);
    expect(await test.database.query('SELECT id FROM users ORDER BY id')).toEqual([
      { id: PATIENT },
      { id: DOCTOR },
      { id: OUTSIDER },
    ]);
    const trail = 'SELECT chat_image_id, accessed_by FROM chat_image_access ORDER BY id';
    expect(await test.database.query(trail)).toEqual([
      { chat_image_id: 1, accessed_by: PATIENT },
      { chat_image_id: 2, accessed_by: DOCTOR },
    ]);

    // This is the example request of the Swagger page.
    const response = await test.fetch('/api/chat-images/signed-urls', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ids: [1, 2] }),
      as: PATIENT,
    });
    const { data } = (await response.json()) as { data: { url: string }[] };
    const types = await Promise.all(
      data.map(async ({ url }) => (await fetch(url)).headers.get('content-type')),
    );
    expect(types).toEqual(['image/jpeg', 'image/png']);

    expect(await seed()).toEqual([0, 'The sample data is there.\n']);
    expect(await test.database.query('SELECT id FROM chat_images ORDER BY id')).toEqual([
      { id: 1 },
      { id: 2 },
    ]);
  });

  it('adds no picture to a database with pictures, and changes no appointment', async () => {
    await test.database.query('DELETE FROM chat_images');
    await test.database.query('UPDATE appointments SET doctor_id = $1', [OUTSIDER]);
    expect((await test.upload(await picture('png'))).status).toBe(200);
    expect(await seed()).toEqual([0, 'The sample data is there.\n']);
    expect(await test.database.query('SELECT id FROM chat_images')).toHaveLength(1);
    expect(await test.database.query('SELECT doctor_id FROM appointments')).toEqual([
      { doctor_id: OUTSIDER },
    ]);
  });
});

describe('npm run token', () => {
  it('prints a token that the service accepts', async () => {
    const test = await TestApp.start();
    try {
      const child = start(['dev/token.js', '--sub', String(PATIENT)], {
        env: { JWT_SECRET },
        cwd: tmpdir(),
      });
      expect(await child.exit).toBe(0);
      const headers = { authorization: `Bearer ${child.output.trim()}` };
      expect((await test.fetch('/api/chat-images/1/signed-url', { headers })).status).toBe(404);
    } finally {
      await test.stop();
    }
  });

  it.each([
    [[], { JWT_SECRET }, /^Usage: /],
    [['--sub', 'abc'], { JWT_SECRET }, /^Usage: /],
    [['--sub', '2', '--expires-in', String(400 * 86_400)], { JWT_SECRET }, /^Usage: .* a year at most/],
    [['--sub', '2'], {}, /^JWT_SECRET is missing: /],
    [
      ['--sub', '2'],
      {
        JWT_ALGORITHM: 'ES256',
        JWT_PUBLIC_KEY: generateKeyPairSync('ec', { namedCurve: 'P-256' })
          .publicKey.export({ type: 'spki', format: 'pem' })
          .toString(),
      },
      /can not sign a token/,
    ],
  ])('prints an error message for the arguments %j', async (args, env, sentence) => {
    const child = start(['dev/token.js', ...args], { env, cwd: tmpdir() });
    expect([await child.exit, child.output]).toEqual([1, expect.stringMatching(sentence)]);
  });
});

describe('npm run local', () => {
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-image-store-'));
    await chmod(folder, 0o755);
  });

  afterAll(() => rm(folder, { recursive: true }));

  const local = async (over: NodeJS.ProcessEnv = {}, ...args: string[]): Promise<RunningProcess> =>
    start(['dev/local.js', ...args], { env: { PORT: String(await freePort()), ...over }, cwd: folder });

  async function tokenOf(child: RunningProcess): Promise<{ url: string; token: string }> {
    const [, url = ''] = await child.printed(/API +(http\S+)\/api/);
    const [, token = ''] = await child.printed(/patient \(user 1\) +(\S+)/);
    await child.printed(/Ctrl-C/);
    return { url, token };
  }

  it('does not start with NODE_ENV=production', async () => {
    const child = await local({ NODE_ENV: 'production' });
    expect([await child.exit, child.output]).toEqual([
      1,
      expect.stringContaining('does not start with NODE_ENV=production'),
    ]);
  });

  it('refuses a second instance, survives a kill, and keeps its data until --reset', async () => {
    const first = await local();
    const { url, token } = await tokenOf(first);
    const headers = { authorization: `Bearer ${token}` };
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(await picture('png'))]), 'a.png');
    form.append('appointment_id', String(APPOINTMENT));
    const samples = ['1', '2'].map((id) => fetch(`${url}/api/chat-images/${id}/signed-url`, { headers }));
    expect((await Promise.all(samples)).map(({ status }) => status)).toEqual([200, 200]);
    const upload = await fetch(`${url}/api/upload/chat-image`, { method: 'POST', body: form, headers });
    expect(upload.status).toBe(200);
    const { data } = (await upload.json()) as { data: { image_id: string; signed_url: string } };
    expect((await fetch(data.signed_url)).status).toBe(200);

    const second = await local();
    expect([await second.exit, second.output]).toEqual([
      1,
      expect.stringMatching(/^Local mode runs already, as process \d+/),
    ]);

    first.signal('SIGKILL');
    await first.exit;
    const third = await local();
    await third.printed(/killed run/);
    const again = await tokenOf(third);
    expect(
      (await fetch(`${again.url}/api/chat-images/${data.image_id}/signed-url`, { headers })).status,
    ).toBe(200);
    third.signal('SIGINT');
    expect(await third.exit).toBe(0);
    expect(third.output).toMatch(/Stopped\./);

    const port = await freePort();
    const holder = createServer().listen(port);
    const fourth = await local({ PORT: String(port) });
    expect([await fourth.exit, fourth.output]).toEqual([
      1,
      expect.stringContaining(`Port ${port} is in use`),
    ]);
    holder.close();

    const fifth = await local({}, '--reset');
    const fresh = await tokenOf(fifth);
    const signedUrl = (headers: Record<string, string>, id: string): Promise<Response> =>
      fetch(`${fresh.url}/api/chat-images/${id}/signed-url`, { headers });
    expect((await signedUrl(headers, '1')).status).toBe(401);
    const newHeaders = { authorization: `Bearer ${fresh.token}` };
    // Only the sample pictures are there again.
    expect((await signedUrl(newHeaders, '1')).status).toBe(200);
    expect((await signedUrl(newHeaders, data.image_id)).status).toBe(404);
    fifth.signal('SIGTERM');
    expect(await fifth.exit).toBe(0);
    // The timeout is long, as PostgreSQL is started several times.
  }, 240_000);

  const asRoot = process.getuid?.() === 0 ? it : it.skip;

  asRoot('runs as root in a folder that no other user can read', async () => {
    const closed = await mkdtemp(join(tmpdir(), 'chat-image-store-'));
    const data = await dataDirectory(join(closed, '.local/postgres'));
    try {
      expect(data.startsWith(closed)).toBe(false);
      const child = start(['dev/local.js'], { env: { PORT: String(await freePort()) }, cwd: closed });
      await tokenOf(child);
      expect(child.output).toContain(data);
      child.signal('SIGINT');
      expect(await child.exit).toBe(0);
      const reset = start(['dev/local.js', '--reset'], {
        env: { PORT: String(await freePort()) },
        cwd: closed,
      });
      await tokenOf(reset);
      reset.signal('SIGINT');
      expect(await reset.exit).toBe(0);
    } finally {
      await rm(closed, { recursive: true });
      await rm(data, { recursive: true });
    }
    await expect(stat(data)).rejects.toThrow('ENOENT');
  });
});
