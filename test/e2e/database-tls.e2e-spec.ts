import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { chmod, chown, copyFile, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import pg from 'pg';
import { type EmbeddedDatabase, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { RunningProcess } from '../support/run-process.js';
import { TEST_ENVIRONMENT } from '../support/test-app.js';

const CA = resolve('test/tls/ca.pem');

describe('a connection to a database with a certificate of a private CA', () => {
  let folder: string;
  let postgres: EmbeddedDatabase;
  let url: string;
  let plain: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-image-store-tls-'));
    await chmod(folder, 0o755);
    postgres = await startEmbeddedPostgres({ directory: join(folder, 'data'), password: 'secret' });
    // PostgreSQL accepts its key only when it owns the file and nobody else can read it.
    const { uid, gid } = await stat(postgres.directory);
    for (const file of ['server.pem', 'server.key']) {
      const own = join(postgres.directory, file);
      await copyFile(join('test/tls', file), own);
      await chmod(own, 0o600);
      await chown(own, uid, gid);
    }
    plain = await postgres.database('tls');
    await query([
      `ALTER SYSTEM SET ssl_cert_file = 'server.pem'`,
      `ALTER SYSTEM SET ssl_key_file = 'server.key'`,
      'ALTER SYSTEM SET ssl = on',
      'SELECT pg_reload_conf()',
    ]);
    url = plain.replace('127.0.0.1', 'localhost');
  });

  afterAll(async () => {
    await postgres.stop();
    await rm(folder, { recursive: true });
  });

  /** Runs statements as the superuser. Resolves to the rows of the last statement. */
  async function query(statements: readonly string[]): Promise<unknown[]> {
    const client = new pg.Client({ connectionString: plain });
    await client.connect();
    try {
      let rows: unknown[] = [];
      for (const statement of statements) ({ rows } = await client.query<object>(statement));
      return rows;
    } finally {
      await client.end();
    }
  }

  async function migrate(environment: NodeJS.ProcessEnv): Promise<{ exit: number | null; output: string }> {
    const child = new RunningProcess(['commands/migrate.js'], { env: environment, cwd: tmpdir() });
    return { exit: await child.exit, output: child.output };
  }

  it.each([
    ['as a path', async () => Promise.resolve(CA), 'require'],
    ['as PEM', () => readFile(CA, 'utf8'), 'require'],
    [
      'as PEM with escaped line breaks',
      async () => (await readFile(CA, 'utf8')).replaceAll('\n', '\\n'),
      'verify-full',
    ],
    ['as a path, and no sslmode', async () => Promise.resolve(CA), ''],
  ])('works with DATABASE_CA_CERT %s', async (_, caCert, mode) => {
    const query = mode === '' ? '' : `?sslmode=${mode}`;
    expect(await migrate({ DATABASE_URL: `${url}${query}`, DATABASE_CA_CERT: await caCert() })).toEqual({
      exit: 0,
      output: expect.stringMatching(/^(Migrated up|Nothing to migrate)/),
    });
  });

  it.each([
    [
      'no DATABASE_CA_CERT',
      () => ({ DATABASE_URL: `${url}?sslmode=require` }),
      /^The database's certificate is of an authority that is not known: set DATABASE_CA_CERT/,
    ],
    [
      'another host name',
      () => ({ DATABASE_URL: `${plain}?sslmode=verify-full`, DATABASE_CA_CERT: CA }),
      /^The database's certificate is for another host name/,
    ],
    [
      'a missing CA file',
      () => ({ DATABASE_URL: url, DATABASE_CA_CERT: '/no/such/file' }),
      /^DATABASE_CA_CERT must be a CA certificate/,
    ],
    [
      'a certificate that is not of a CA',
      () => ({ DATABASE_URL: url, DATABASE_CA_CERT: resolve('test/tls/server.pem') }),
      /^DATABASE_CA_CERT must be a CA certificate/,
    ],
  ])('fails with %s, and one line says what to set', async (_, environment, line) => {
    const { exit, output } = await migrate(environment());
    expect([exit, output.trim().split('\n')]).toEqual([1, [expect.stringMatching(line)]]);
  });

  it.each(['verify-ca', 'no-verify'])('works under another host name with sslmode=%s', async (mode) => {
    expect((await migrate({ DATABASE_URL: `${plain}?sslmode=${mode}`, DATABASE_CA_CERT: CA })).exit).toBe(0);
  });

  it('is encrypted in both connection pools of the server', async () => {
    await migrate({ DATABASE_URL: url, DATABASE_CA_CERT: CA });
    const child = new RunningProcess(['main.js'], {
      env: {
        ...TEST_ENVIRONMENT,
        PORT: '0',
        DATABASE_URL: `${url}?sslmode=require`,
        DATABASE_CA_CERT: CA,
        LOCAL_STORAGE_DIR: join(folder, 'storage'),
      },
      cwd: tmpdir(),
    });
    await child.printed(/"listening"/);
    const connections = await query([
      `SELECT DISTINCT application_name AS name, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
       WHERE application_name LIKE 'chat-image-store%' ORDER BY 1`,
    ]);
    expect(connections).toEqual([
      { name: 'chat-image-store', ssl: true },
      { name: 'chat-image-store requests', ssl: true },
    ]);
    child.signal('SIGTERM');
    expect(await child.exit).toBe(0);
  });
});
