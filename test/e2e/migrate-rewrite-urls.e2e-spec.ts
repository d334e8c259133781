import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { loadDatabaseSettings } from '../../src/config/settings.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { migrateUp } from '../../src/database/migrate.js';
import { type EmbeddedDatabase, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { eventually } from '../support/eventually.js';
import { RunningProcess } from '../support/run-process.js';
import { APPOINTMENT, DOCTOR, PATIENT, TEST_ENVIRONMENT } from '../support/test-app.js';

const API = 'https://api.example.com';
const BUCKET = 'https://docavailable-storage.fra1.digitaloceanspaces.com';
const CDN = 'https://docavailable-storage.fra1.cdn.digitaloceanspaces.com';
const PATH_STYLE = 'https://fra1.digitaloceanspaces.com/docavailable-storage';

const ENVIRONMENT = {
  ...TEST_ENVIRONMENT,
  APP_URL: API,
  STORAGE_DRIVER: 's3',
  DO_SPACES_KEY: 'key',
  DO_SPACES_SECRET: 'secret',
  DO_SPACES_ENDPOINT: 'https://fra1.digitaloceanspaces.com',
  DO_SPACES_REGION: 'fra1',
  DO_SPACES_BUCKET: 'docavailable-storage',
  DO_SPACES_URL: BUCKET,
} satisfies NodeJS.ProcessEnv;

const pathOf = (n: number): string =>
  `chat_images/appointment_${APPOINTMENT}/${1762379000 + n}_YoxmX4UUfE.jpg`;
const HERE = pathOf(1);
const STABLE = `${API}/storage/${HERE}`;

/** Pictures that are stored: enough for several batches. */
const STORED = 60;

type Rows = readonly { readonly id: string; readonly media_url: string | null }[];

let postgres: EmbeddedDatabase;
let database: DataSource;
let url: string;
let folder: string;
const running: RunningProcess[] = [];
const clients: pg.Client[] = [];

beforeAll(async () => {
  postgres = await startEmbeddedPostgres('throwaway');
  url = await postgres.database('test');
  database = await new DataSource(
    dataSourceOptions(loadDatabaseSettings({ DATABASE_URL: url }), ENTITIES),
  ).initialize();
  await migrateUp(database);
  await database.query('INSERT INTO users (id) VALUES ($1), ($2)', [PATIENT, DOCTOR]);
  await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
    APPOINTMENT,
    PATIENT,
    DOCTOR,
  ]);
  await database.query(
    `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type)
     SELECT $1, path, substring(path from '[^/]*$'), $2, 1, 'image/jpeg' FROM unnest($3::text[]) path`,
    [APPOINTMENT, PATIENT, Array.from({ length: STORED }, (_, index) => pathOf(index + 1))],
  );
});

afterAll(async () => {
  await database.destroy();
  await postgres.stop();
});

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chat-image-store-'));
  await table('id bigserial PRIMARY KEY, media_url varchar(255), updated_at timestamp(0)');
});

afterEach(async () => {
  for (const child of running.splice(0)) {
    child.signal('SIGKILL');
    await child.exit;
  }
  for (const client of clients.splice(0)) await client.end();
  await rm(folder, { recursive: true });
});

/** Makes the table of messages anew. */
async function table(columns: string): Promise<void> {
  await database.query('DROP TABLE IF EXISTS chat_messages CASCADE');
  await database.query(`CREATE TABLE chat_messages (${columns})`);
}

async function insert(...values: readonly (string | null)[]): Promise<void> {
  await database.query('INSERT INTO chat_messages (media_url) SELECT unnest($1::text[])', [values]);
}

/** A message for each of the stored pictures. */
const insertAll = (): Promise<void> =>
  insert(...Array.from({ length: STORED }, (_, index) => `${BUCKET}/${pathOf(index + 1)}`));

const rows = (): Promise<Rows> =>
  database.query<{ id: string; media_url: string | null }[]>(
    'SELECT id::text AS id, media_url FROM chat_messages ORDER BY chat_messages.id',
  );

const values = async (): Promise<readonly (string | null)[]> => (await rows()).map((row) => row.media_url);

const countRewritten = async (): Promise<number> =>
  (await values()).filter((value) => value?.startsWith(`${API}/storage/`)).length;

function start(args: readonly string[], environment: NodeJS.ProcessEnv = {}): RunningProcess {
  const child = new RunningProcess(['commands/migrate-rewrite-urls.js', ...args], {
    env: { ...ENVIRONMENT, DATABASE_URL: url, ...environment },
    cwd: folder,
  });
  running.push(child);
  return child;
}

const TARGET = ['--table', 'chat_messages', '--column', 'media_url'];

async function run(
  args: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): Promise<readonly [code: number | null, output: string]> {
  const child = start(args, environment);
  return [await child.exit, child.output];
}

const rewrite = (args: readonly string[] = [], environment: NodeJS.ProcessEnv = {}): ReturnType<typeof run> =>
  run([...TARGET, '--apply', '--undo-file', 'undo.ndjson', ...args], environment);

const undoLines = async (file = 'undo.ndjson'): Promise<readonly Record<string, string>[]> =>
  (await readFile(join(folder, file), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, string>);

/** Another connection, as of the running chat. */
async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, application_name: 'the-chat' });
  clients.push(client);
  await client.connect();
  return client;
}

/** Waits until a connection of the command waits for a lock. */
const waitsForLock = (): Promise<unknown> =>
  eventually(async () => {
    const waiting = await database.query<unknown[]>(
      `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()`,
    );
    return waiting.length > 0;
  }, 'a wait for a lock');

const count = (outcome: string, n: number): RegExp => new RegExp(`│ ${outcome} +│ ${n} +│`);

describe('npm run migrate:rewrite-urls', () => {
  it('rewrites every form of the address of a picture, and nothing else', async () => {
    const forms = [
      `${BUCKET}/${HERE}`,
      `${PATH_STYLE}/${HERE}`,
      `${CDN}/${HERE}`,
      `https://fra1.cdn.digitaloceanspaces.com/docavailable-storage/${HERE}`,
      `http://DocAvailable-Storage.FRA1.digitaloceanspaces.com:80/${HERE}`,
      `${BUCKET}/${HERE}?X-Amz-Expires=3600&X-Amz-Signature=0123`,
      `${BUCKET}/${HERE}?Signature=abc#top`,
      `https://media.example.com/pictures/${HERE}`,
      `https://old.example.com/storage/${HERE}`,
    ];
    const others = [
      null,
      '',
      'Good morning',
      STABLE,
      `${API}/api/images/${HERE}`,
      `Look: ${BUCKET}/${HERE}`,
      `${BUCKET}/${HERE} is what I mean`,
      `${BUCKET}/${HERE}?see also`,
      ` ${BUCKET}/${HERE}`,
      `${BUCKET}/profile_pictures/${APPOINTMENT}/1762379001_YoxmX4UUfE.jpg`,
      `${BUCKET}/chat_images/appointment_${APPOINTMENT}/photo.jpg`,
      `${BUCKET}/chat_images/appointment_${APPOINTMENT}/../${HERE}`,
      `${BUCKET}//${HERE}`,
      `${BUCKET}/x/${HERE}`,
      `${BUCKET.replace('https', 'ftp')}/${HERE}`,
      `https://docavailable-storage.fra1.digitaloceanspaces.com.evil.example/${HERE}`,
      `https://evil-docavailable-storage.fra1.digitaloceanspaces.com/${HERE}`,
      `https://docavailable-storage.fra1.digitaloceanspaces.com@evil.example/${HERE}`,
      `https://docavailable-storage.fra1.digitaloceanspaces.com:8443/${HERE}`,
      `https://evil.example/?${BUCKET}/${HERE}`,
      `https://ams3.digitaloceanspaces.com/docavailable-storage/${HERE}`,
      `https://fra1.digitaloceanspaces.com/another-bucket/${HERE}`,
      `https://media.example.com/${HERE}`,
    ];
    await insert(...forms, ...others);
    const [code, output] = await rewrite(['--address', 'https://media.example.com/pictures/'], {
      LEGACY_MEDIA_URL: 'https://old.example.com/storage',
    });
    expect(output).toMatch(count('rewritten', forms.length));
    expect(output).toMatch(count('stable already', 2));
    expect(code).toBe(0);
    expect(await values()).toEqual([...forms.map(() => STABLE), ...others]);
  });

  it('changes nothing without --apply, and shows only the paths', async () => {
    await insert(`${BUCKET}/${HERE}?X-Amz-Signature=0123`, 'a secret message', `${CDN}/${pathOf(2)}`);
    const before = await database.query<{ xmin: string }[]>('SELECT xmin, * FROM chat_messages ORDER BY id');
    const [code, output] = await run(TARGET);
    expect([code, output]).toEqual([0, expect.stringMatching(count('would be rewritten', 2))]);
    expect(output).toContain(`would be rewritten, for example:\n  ${HERE}\n  ${pathOf(2)}\n`);
    expect(output).not.toMatch(/Signature|secret/);
    expect(await database.query('SELECT xmin, * FROM chat_messages ORDER BY id')).toEqual(before);
    expect(await readdir(folder)).toEqual([]);
  });

  it('leaves an address whose picture is not here, but for the phases that redirect', async () => {
    const missing = `${BUCKET}/${pathOf(STORED + 1)}`;
    const session = `${BUCKET}/chat_images/text_session_7/1762379001_YoxmX4UUfE.jpg`;
    await database.query(`UPDATE chat_images SET state = 'abandoned' WHERE file_path = $1`, [pathOf(2)]);
    try {
      await insert(missing, session, `${BUCKET}/${pathOf(2)}`, `${BUCKET}/${HERE}`);
      const legacy = { LEGACY_MEDIA_URL: 'https://old.example.com/storage' };
      for (const environment of [{}, { MIGRATION_PHASE: '2' }, { MIGRATION_PHASE: '3', ...legacy }]) {
        const [code, output] = await run(TARGET, environment);
        expect([code, output]).toEqual([2, expect.stringMatching(count('picture not here', 3))]);
        expect(output).toMatch(count('would be rewritten', 1));
        expect(output).toContain('3 addresses stay as they are.');
      }
      expect((await rewrite([], { MIGRATION_PHASE: '1', ...legacy }))[0]).toBe(0);
      expect(await values()).toEqual([
        `${API}/storage/${pathOf(STORED + 1)}`,
        `${API}/storage/chat_images/text_session_7/1762379001_YoxmX4UUfE.jpg`,
        `${API}/storage/${pathOf(2)}`,
        STABLE,
      ]);
    } finally {
      await database.query(`UPDATE chat_images SET state = 'stored' WHERE file_path = $1`, [pathOf(2)]);
    }
  });

  it('leaves an address whose stable one is too long for the column', async () => {
    const short = `${BUCKET}/${HERE}`;
    await table(`id serial PRIMARY KEY, media_url varchar(${short.length})`);
    await insert(short);
    const [code, output] = await rewrite([], { APP_URL: `https://${'long-name.'.repeat(8)}example.com` });
    expect([code, output]).toEqual([2, expect.stringMatching(count('too long for the column', 1))]);
    expect(await values()).toEqual([short]);
    expect((await rewrite())[0]).toBe(0);
    expect(await values()).toEqual([STABLE]);
  });

  it('leaves times and other columns alone, and writes a line for each change', async () => {
    await insertAll();
    await database.query(`UPDATE chat_messages SET updated_at = '2025-11-05'`);
    const before = await rows();
    expect((await rewrite(['--batch', '7']))[0]).toBe(0);
    expect(await undoLines()).toEqual(
      before.map(({ id, media_url }, index) => ({
        table: 'public.chat_messages',
        column: 'media_url',
        key: id,
        old: media_url,
        new: `${API}/storage/${pathOf(index + 1)}`,
      })),
    );
    expect((await stat(join(folder, 'undo.ndjson'))).mode & 0o777).toBe(0o600);
    expect(
      await database.query(`SELECT FROM chat_messages WHERE updated_at IS DISTINCT FROM '2025-11-05'`),
    ).toEqual([]);
    const [code, output] = await run([...TARGET, '--apply']);
    expect([code, output]).toEqual([0, expect.stringMatching(count('stable already', STORED))]);
    expect(await readdir(folder)).toEqual(['undo.ndjson']);
  });

  it('never writes over an undo file', async () => {
    await insert(`${BUCKET}/${HERE}`);
    await writeFile(join(folder, 'undo.ndjson'), 'of an earlier run\n');
    expect(await rewrite()).toEqual([1, expect.stringContaining('undo.ndjson is there already')]);
    expect(await values()).toEqual([`${BUCKET}/${HERE}`]);
    expect(await readFile(join(folder, 'undo.ndjson'), 'utf8')).toBe('of an earlier run\n');
  });

  it.each([
    ['text', `'m-' || n`],
    ['varchar(20) COLLATE "C"', `CASE WHEN n % 2 = 0 THEN 'b' ELSE 'A' END || '''"\\' || n`],
    ['char(8)', `'m' || n`],
    ['uuid', 'gen_random_uuid()'],
    ['numeric', '-n / 7.0'],
    ['smallint', 'n'],
  ])('walks a key of type %s from first to last, and back', async (type, key) => {
    await table(`"the ""Key""" ${type} PRIMARY KEY, "Media url" text`);
    // More rows than are read at once.
    await database.query(
      `INSERT INTO chat_messages SELECT ${key}, CASE WHEN n % 100 = 0 THEN $1 ELSE 'text ' || n END FROM generate_series(1, 11000) n`,
      [`${CDN}/${HERE}`],
    );
    const content = (): Promise<unknown> => database.query('SELECT * FROM chat_messages ORDER BY 1');
    const before = await content();
    const quoted = ['--table', 'public.chat_messages', '--column', 'Media url'];
    const [code, output] = await run([...quoted, '--apply', '--undo-file', 'undo.ndjson', '--batch', '33']);
    expect([code, output]).toEqual([0, expect.stringMatching(count('rewritten', 110))]);
    expect(await database.query('SELECT FROM chat_messages WHERE "Media url" = $1', [STABLE])).toHaveLength(
      110,
    );
    expect((await run(['--undo', 'undo.ndjson', '--batch', '33']))[0]).toBe(0);
    expect(await content()).toEqual(before);
  });
});

describe('npm run migrate:rewrite-urls -- --undo', () => {
  it('puts every old value back, but for rows that were changed or deleted since', async () => {
    await insertAll();
    const before = await rows();
    expect((await rewrite())[0]).toBe(0);
    await database.query(`UPDATE chat_messages SET media_url = 'changed' WHERE id = 3`);
    await database.query('UPDATE chat_messages SET media_url = NULL WHERE id = 4');
    await database.query('DELETE FROM chat_messages WHERE id = 5');
    await database.query('UPDATE chat_messages SET media_url = $1 WHERE id = 6', [before[5]?.media_url]);
    const [code, output] = await run(['--undo', 'undo.ndjson', '--batch', '11']);
    expect(code).toBe(0);
    expect(output).toMatch(count('put back', STORED - 4));
    expect(output).toMatch(count('changed meanwhile', 2));
    expect(output).toMatch(count('row is gone', 1));
    expect(output).toMatch(count('as before already', 1));
    expect(await rows()).toEqual(
      before
        .filter(({ id }) => id !== '5')
        .map((row) => {
          const changed: Record<string, string | null> = { 3: 'changed', 4: null };
          return row.id in changed ? { ...row, media_url: changed[row.id] } : row;
        }),
    );
  });

  it('leaves out a last line that was cut, and refuses any other file, before it changes anything', async () => {
    await insertAll();
    const before = await values();
    expect((await rewrite())[0]).toBe(0);
    const after = await values();
    const lines = await readFile(join(folder, 'undo.ndjson'), 'utf8');
    const undo = async (content: string, ...args: string[]): ReturnType<typeof run> => {
      await writeFile(join(folder, 'other.ndjson'), content);
      return run(['--undo', 'other.ndjson', ...args]);
    };
    expect(await undo('no line\n')).toEqual([1, expect.stringContaining('is no undo file')]);
    expect(await undo('')).toEqual([1, expect.stringContaining('nothing to undo')]);
    expect(await undo(`${lines}cut\n${lines}`)).toEqual([
      1,
      expect.stringContaining(`Line ${STORED + 1} of other.ndjson is no line`),
    ]);
    expect(await undo(lines.replace(/chat_messages(?!.*chat_messages)/s, 'users'))).toEqual([
      1,
      expect.stringContaining(`Line ${STORED} of other.ndjson is of public.users.media_url`),
    ]);
    expect(await values()).toEqual(after);
    expect((await undo(`${lines}{"table":"public.ch`))[0]).toBe(0);
    expect(await values()).toEqual(before);
  });
});

describe('npm run migrate:rewrite-urls beside a running chat', () => {
  it('does not write over a row that another transaction changes, and does the others meanwhile', async () => {
    await insertAll();
    const chat = await connect();
    await chat.query('BEGIN');
    await chat.query(`UPDATE chat_messages SET media_url = 'a new message' WHERE id = 2`);
    await chat.query('UPDATE chat_messages SET media_url = $1 WHERE id = 3', [`${CDN}/${pathOf(40)}`]);
    await chat.query('DELETE FROM chat_messages WHERE id = 4');
    await chat.query(`UPDATE chat_messages SET updated_at = now() WHERE id = 5`);
    const child = start([...TARGET, '--apply', '--undo-file', 'undo.ndjson', '--batch', '10']);
    await waitsForLock();
    expect(await countRewritten()).toBe(STORED - 4);
    await chat.query('COMMIT');
    expect([await child.exit, child.output]).toEqual([
      0,
      expect.stringMatching(count('rewritten', STORED - 2)),
    ]);
    expect(child.output).toMatch(count('changed meanwhile', 1));
    expect(child.output).toMatch(count('row is gone', 1));
    expect((await rows()).slice(0, 4)).toEqual([
      { id: '1', media_url: STABLE },
      { id: '2', media_url: 'a new message' },
      { id: '3', media_url: `${API}/storage/${pathOf(40)}` },
      { id: '5', media_url: `${API}/storage/${pathOf(5)}` },
    ]);
    expect((await undoLines()).find(({ key }) => key === '3')?.old).toBe(`${CDN}/${pathOf(40)}`);
  });

  it('stops with the name of the holder where a row stays locked, and does it the next time', async () => {
    await insertAll();
    const chat = await connect();
    await chat.query('BEGIN');
    await chat.query('SELECT FROM chat_messages WHERE id = 2 FOR UPDATE');
    const [code, output] = await rewrite();
    expect([code, output]).toEqual([
      1,
      expect.stringMatching(/All is done but 1 row of public\.chat_messages, held by .*the-chat/),
    ]);
    expect(await countRewritten()).toBe(STORED - 1);
    await chat.query('ROLLBACK');
    expect((await run([...TARGET, '--apply', '--undo-file', 'second.ndjson']))[0]).toBe(0);
    expect(await countRewritten()).toBe(STORED);
    expect(await undoLines('second.ndjson')).toHaveLength(1);
  });

  it('holds no row while it waits, so that the chat can write', async () => {
    await insertAll();
    const chat = await connect();
    await chat.query('BEGIN');
    await chat.query('SELECT FROM chat_messages WHERE id = 60 FOR UPDATE');
    const child = start([...TARGET, '--apply', '--batch', '10000']);
    await waitsForLock();
    const another = await connect();
    await another.query(`SET lock_timeout = '1ms'`);
    await another.query(`UPDATE chat_messages SET media_url = 'edited' WHERE id < 60`);
    await chat.query('ROLLBACK');
    expect(await child.exit).toBe(0);
    expect(new Set(await values())).toEqual(new Set(['edited', `${API}/storage/${pathOf(60)}`]));
  });

  it('gives way to a lock on the whole table, and says who holds it', async () => {
    await insertAll();
    const chat = await connect();
    await chat.query('BEGIN');
    await chat.query('LOCK TABLE chat_messages');
    expect(await rewrite()).toEqual([
      1,
      expect.stringMatching(/public\.chat_messages is locked by process \d+ .*the-chat/),
    ]);
    await chat.query('ROLLBACK');
    expect((await rewrite())[0]).toBe(0);
  });

  it('can be killed in the middle of a batch, and started again', async () => {
    await insertAll();
    const before = await values();
    await database.query(`
      CREATE OR REPLACE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END';
      CREATE TRIGGER wait BEFORE UPDATE ON chat_messages FOR EACH ROW WHEN (OLD.id = 33) EXECUTE FUNCTION wait_for_test()`);
    const holder = await connect();
    await holder.query('SELECT pg_advisory_lock(7)');
    const child = start([...TARGET, '--apply', '--undo-file', 'first.ndjson', '--batch', '10']);
    await waitsForLock();
    child.signal('SIGKILL');
    await child.exit;
    expect(await countRewritten()).toBe(30);
    expect(await undoLines('first.ndjson')).toHaveLength(30);
    await holder.query('SELECT pg_advisory_unlock(7)');
    expect((await rewrite())[0]).toBe(0);
    expect(await countRewritten()).toBe(STORED);
    for (const file of ['first.ndjson', 'undo.ndjson']) expect((await run(['--undo', file]))[0]).toBe(0);
    expect(await values()).toEqual(before);
  });

  it('has written how to undo a batch before the batch is committed', async () => {
    await insertAll();
    const before = await values();
    await database.query(`
      CREATE OR REPLACE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM set_config(''lock_timeout'', ''0'', true), pg_advisory_xact_lock_shared(7); RETURN NULL; END';
      CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON chat_messages INITIALLY DEFERRED
        FOR EACH ROW WHEN (OLD.id = 33) EXECUTE FUNCTION wait_for_test()`);
    const holder = await connect();
    await holder.query('SELECT pg_advisory_lock(7)');
    const child = start([...TARGET, '--apply', '--undo-file', 'undo.ndjson', '--batch', '10']);
    await waitsForLock();
    child.signal('SIGKILL');
    await child.exit;
    // The server commits, although the command is dead and knows nothing of it.
    await holder.query('SELECT pg_advisory_unlock(7)');
    await eventually(async () => (await countRewritten()) === 40, 'the commit');
    expect(await undoLines()).toHaveLength(40);
    expect((await run(['--undo', 'undo.ndjson']))[0]).toBe(0);
    expect(await values()).toEqual(before);
  });

  it('ends after its batch on SIGTERM', async () => {
    await insertAll();
    const chat = await connect();
    await chat.query('BEGIN');
    await chat.query('SELECT FROM chat_messages WHERE id = 2 FOR UPDATE');
    const child = start([...TARGET, '--apply', '--batch', '10']);
    await waitsForLock();
    child.signal('SIGTERM');
    expect([await child.exit, child.output]).toEqual([1, expect.stringContaining('start it again')]);
  });

  it('does not change what a trigger refuses, and tells nothing of its message', async () => {
    await insert(`${BUCKET}/${HERE}`);
    await database.query(`
      CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''secret %'', OLD.media_url; END';
      CREATE TRIGGER refuse BEFORE UPDATE ON chat_messages FOR EACH ROW EXECUTE FUNCTION refuse()`);
    const refused = await rewrite();
    expect(refused).toEqual([
      1,
      expect.stringContaining('refuses the change of public.chat_messages (P0001)'),
    ]);
    expect(refused[1]).not.toContain('secret');
    await database.query(`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN RETURN NULL; END'`);
    expect(await rewrite()).toEqual([1, expect.stringContaining('Look at the triggers')]);
    expect(await values()).toEqual([`${BUCKET}/${HERE}`]);
  });
});

describe('npm run migrate:rewrite-urls: what it refuses', () => {
  it.each([
    [[], /^Usage: /],
    [['--table', 'chat_messages'], /^Usage: /],
    [[...TARGET, '--batch', '0'], /^Usage: /],
    [[...TARGET, '--address', 'cdn.example.com'], /^--address must be an absolute http\(s\) URL/],
    [['--undo', 'no-such-file', '--address', BUCKET], /^Usage: /],
    [['--undo', 'no-such-file'], /^no-such-file can not be read \(ENOENT\)\.$/],
    [['--table', 'messages', '--column', 'media_url'], /^There is no table messages: /],
    [['--table', 'a.b.c', '--column', 'media_url'], /^--table must be a name, or schema\.name\.$/],
    [['--table', 'chat_messages', '--column', 'url'], /^There is no column url in public\.chat_messages\.$/],
    [['--table', 'chat_messages', '--column', 'id'], /is of type bigint, not varchar or text\.$/],
    [['--table', 'all_messages', '--column', 'media_url'], /^all_messages is a view: /],
    [['--table', 'no_key', '--column', 'media_url'], /^public\.no_key has no primary key of one column/],
    [['--table', 'two_keys', '--column', 'media_url'], /^public\.two_keys has no primary key of one column/],
    [
      ['--table', 'time_key', '--column', 'media_url'],
      /is of type timestamp.*, not a number, uuid or text\.$/,
    ],
  ])('%j', async (args, sentence) => {
    await database.query(`
      CREATE VIEW all_messages AS SELECT * FROM chat_messages;
      CREATE TABLE IF NOT EXISTS no_key (media_url text);
      CREATE TABLE IF NOT EXISTS two_keys (a int, b int, media_url text, PRIMARY KEY (a, b));
      CREATE TABLE IF NOT EXISTS time_key (id timestamptz PRIMARY KEY, media_url text)`);
    const [code, output] = await run(args);
    expect([code, output.split('\n')[0]]).toEqual([1, expect.stringMatching(sentence)]);
    expect(output).not.toMatch(/\n +at /);
  });

  it('names the grants that a role needs, and runs with them', async () => {
    await insert(`${BUCKET}/${HERE}`);
    await database.query(`CREATE SCHEMA "Main"`);
    await database.query(`ALTER TABLE chat_messages SET SCHEMA "Main"`);
    await database.query(`CREATE ROLE "chat-images" LOGIN PASSWORD 'its own'`);
    await database.query('GRANT SELECT ON chat_images TO "chat-images"');
    try {
      const own = new URL(url);
      own.username = 'chat-images';
      own.password = 'its own';
      // DATABASE_DIRECT_URL comes first.
      const role = { DATABASE_URL: 'postgres://127.0.0.1:1/x', DATABASE_DIRECT_URL: own.href };
      const target = ['--table', 'Main.chat_messages', '--column', 'media_url'];
      const grantsOf = (output: string): string => /run: (GRANT .*)/.exec(output)?.[1] ?? '';
      const [code, output] = await run(target, role);
      expect([code, grantsOf(output)]).toEqual([
        1,
        'GRANT USAGE ON SCHEMA "Main" TO "chat-images"; GRANT SELECT (id, media_url) ON "Main".chat_messages TO "chat-images";',
      ]);
      await database.query(grantsOf(output));
      expect((await run(target, role))[0]).toBe(0);
      const [, refused] = await run([...target, '--apply'], role);
      expect(grantsOf(refused)).toBe('GRANT UPDATE (media_url) ON "Main".chat_messages TO "chat-images";');
      await database.query(grantsOf(refused));
      expect((await run([...target, '--apply'], role))[0]).toBe(0);
      expect(await database.query('SELECT media_url FROM "Main".chat_messages')).toEqual([
        { media_url: STABLE },
      ]);
      await database.query('ALTER TABLE "Main".chat_messages ENABLE ROW LEVEL SECURITY');
      expect(await run(target, role)).toEqual([
        1,
        expect.stringContaining('Row security of Main.chat_messages'),
      ]);
    } finally {
      await database.query(
        'DROP SCHEMA "Main" CASCADE; DROP OWNED BY "chat-images"; DROP ROLE "chat-images"',
      );
    }
  });
});
