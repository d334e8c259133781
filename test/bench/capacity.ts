/*
 * npm run bench:capacity: what one upload and one signed URL cost, for `npm run capacity`: processor time, rows, WAL, growth of the
 * tables, requests to the storage, commands to Redis, connections. `-- --write` writes docs/bench/capacity.json, which
 * `npm run capacity` reads. The storage is a server in this process that keeps nothing, so its own work is not in the figures. Needs
 * redis-server. Rows, WAL, bytes and requests do not depend on the machine; processor times do.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { Agent, type IncomingMessage, request } from 'node:http';
import type { DataSource } from 'typeorm';
import type { Measured, PerUpload, PerUrl } from '../../src/dev/capacity-model.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { S3Answers } from '../support/s3-answers.js';
import { seed } from './seed.js';
import { Bench, forms, photograph, type Server, withDatabase } from './service-under-test.js';
import { LoadGenerator, type LoadRequest, signedUrlRequests } from './signed-url-load.js';
import { cpuMicroseconds } from './signed-url-measure.js';

const RESULT = 'docs/bench/capacity.json';

const SIZES = { images: 20_000, appointments: 2000, accesses: 200_000 };

const TRAIL = 'chat_image_access';

/** The sweeper empties it, which is off here, so it does not grow for good. */
const EMPTIED = 'chat_image_upload_keys';

/** How long a load of signed URLs is measured. */
const MEASURE_MS = Number(process.env.BENCH_MS ?? 5000);
const WARM_UP_MS = 2000;
const URL_CONNECTIONS = 16;
const BATCH = 20;

/** Uploads of each size for the processor time, and of small pictures for rows, WAL and bytes. */
const TIMED_UPLOADS = Number(process.env.BENCH_UPLOADS ?? 60);
const SMALL_UPLOADS = 250;
const ROUNDS = 4;
const UPLOADS_AT_A_TIME = 8;

const REDIS_REQUESTS = 50;

/** Processor time until now, in microseconds. */
type Cpu = { readonly server: number; readonly postgres: number };

/** A look at all that one request changes. */
type Look = {
  /** Before the look, and after it: the look itself takes time of PostgreSQL. */
  readonly cpu: readonly [begun: Cpu, ended: Cpu];
  readonly rows: Readonly<Record<string, number>>;
  readonly changes: number;
  readonly walBytes: number;
  readonly tableBytes: number;
};

const agent = new Agent({ keepAlive: true });
const storage = await S3Answers.start();
const redis = await RedisServer.start();
const bench = await Bench.open({
  durable: true,
  environment: {
    ...storage.environment,
    STORAGE_REQUEST_TIMEOUT_MS: '10000',
    SWEEP_INTERVAL_SECONDS: '0',
  },
  fill: async (database) => {
    await seed(database, SIZES);
    // Its work would be in the figures. The tables are vacuumed by this program.
    await database.query('ALTER SYSTEM SET autovacuum = off');
    // How many full pages the WAL has depends on the checkpoints: `--wal-factor` of `npm run capacity` stands for them.
    await database.query('ALTER SYSTEM SET full_page_writes = off');
    await database.query('SELECT pg_reload_conf()');
  },
});
const load = await LoadGenerator.open();
try {
  const measured = await withDatabase(bench.environment.DATABASE_URL, measureAll);
  const text = `${JSON.stringify(measured, inThreeDigits, 2)}\n`;
  console.log(text);
  if (process.argv.includes('--write')) await writeFile(RESULT, text);
} finally {
  await load.close();
  await bench.close();
  await redis.stop();
  storage.stop();
}
process.exit(0);

async function measureAll(database: DataSource): Promise<Measured> {
  const server = await bench.start('service', 'dist/main.js');
  const { single, batch } = await signedUrlRequests(database, (user) => bench.tokenOf(user));
  const batches = batch.flatMap(inSmallerBatches);
  const uploader = await someParticipant(database);

  const upload = await measureUploads(database, server, uploader);
  const signedUrl = await measureUrls(database, server, single, 1);
  const { connections, ...inBatch } = await measureUrls(database, server, batches, BATCH);

  const shared = await bench.start('with redis', 'dist/main.js', { REDIS_URL: redis.url });
  const photo = await photograph(320, 240, 80);
  const form = forms(photo, uploader.appointment);
  return {
    command: 'npm run bench:capacity -- --write',
    node: process.version,
    postgres: await serverVersion(database),
    upload: {
      ...upload,
      redisCommands: await redisCommands(() => sendUpload(shared, form.next(), form.type, uploader.token)),
    },
    signedUrl: {
      ...withoutConnections(signedUrl),
      redisCommands: await redisCommands((index) => ask(shared, single[index])),
    },
    signedUrlInBatch: {
      ...inBatch,
      urlsInBatch: BATCH,
      redisCommands: (await redisCommands((index) => ask(shared, batches[index]))) / BATCH,
    },
    connectionsOfInstance: Math.max(connections, signedUrl.connections),
  };
}

/** Whole numbers stay as they are. */
function inThreeDigits(_: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(3)) : value;
}

async function serverVersion(database: DataSource): Promise<string> {
  const [row] = await database.query<[{ version: string }]>(
    `SELECT current_setting('server_version') AS version`,
  );
  return row.version;
}

type Uploader = { readonly token: string; readonly appointment: number };

async function measureUploads(
  database: DataSource,
  server: Server,
  { token, appointment }: Uploader,
): Promise<Omit<PerUpload, 'redisCommands'>> {
  const small = forms(await photograph(64, 48, 70), appointment);
  const timed: { bytes: number; serviceCpuMs: number; postgresCpuMs: number; thumbnailBytes: number }[] = [];
  for (const photo of [await photograph(1278, 720, 82), await photograph(4000, 3000, 93)]) {
    const form = forms(photo, appointment);
    const send = (): Promise<void> => sendUpload(server, form.next(), form.type, token);
    await repeat(20, UPLOADS_AT_A_TIME, send);
    storage.answerWith();
    const before = await look(database, server);
    await repeat(TIMED_UPLOADS, UPLOADS_AT_A_TIME, send);
    const after = await look(database, server);
    timed.push({
      bytes: photo.length,
      ...cpuBetween(before, after, TIMED_UPLOADS),
      thumbnailBytes: sentBytes(storage, (path) => path.includes('/thumbs/')) / TIMED_UPLOADS,
    });
  }

  const send = (): Promise<void> => sendUpload(server, small.next(), small.type, token);
  // Later rounds use the space again that updates of earlier ones have left.
  for (let round = 0; round < 2; round += 1) {
    await repeat(SMALL_UPLOADS, UPLOADS_AT_A_TIME, send);
    await database.query('VACUUM');
  }
  await settledStatistics(database);
  storage.answerWith();
  const first = await look(database, server);
  let walBytes = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = await look(database, server);
    await repeat(SMALL_UPLOADS, UPLOADS_AT_A_TIME, send);
    const after = await look(database, server);
    walBytes += after.walBytes - before.walBytes;
    await database.query('VACUUM');
  }
  await settledStatistics(database);
  const last = await look(database, server);
  const uploads = ROUNDS * SMALL_UPLOADS;
  const requests = storage.requests.map(({ method }) => method);
  return {
    timed,
    rows: added(first, last, uploads),
    rowChanges: (last.changes - first.changes) / uploads,
    walBytes: walBytes / uploads,
    tableBytes: (last.tableBytes - first.tableBytes) / uploads,
    puts: requests.filter((method) => method === 'PUT').length / uploads,
    otherRequests: requests.filter((method) => method !== 'PUT').length / uploads,
  };
}

async function measureUrls(
  database: DataSource,
  server: Server,
  requests: readonly LoadRequest[],
  urlsOfRequest: number,
): Promise<Omit<PerUrl, 'redisCommands'> & { connections: number }> {
  await load.run(server, requests, URL_CONNECTIONS, WARM_UP_MS);
  const before = await look(database, server);
  let connections = 0;
  const running = load.run(server, requests, URL_CONNECTIONS, MEASURE_MS);
  const ended = new AbortController();
  void running.catch(() => undefined).finally(() => ended.abort());
  while (!ended.signal.aborted) connections = Math.max(connections, await openConnections(database));
  const answered = (await running).requests * urlsOfRequest;
  const after = await look(database, server);
  // The service also did the requests whose answers came after the end of the load. Each URL has an audit row.
  const urls = (after.rows[TRAIL] ?? NaN) - (before.rows[TRAIL] ?? NaN);
  if (!(urls >= answered && urls < answered * 1.1))
    throw new Error(`${urls} rows for ${answered} signed URLs.`);
  return {
    ...cpuBetween(before, after, urls),
    rows: added(before, after, urls),
    walBytes: (after.walBytes - before.walBytes) / urls,
    tableBytes: (after.tableBytes - before.tableBytes) / urls,
    connections,
  };
}

function withoutConnections<T extends { connections: number }>({
  connections: _,
  ...rest
}: T): Omit<T, 'connections'> {
  return rest;
}

/** Rows added to each table, for one of so many requests. */
function added(before: Look, after: Look, requests: number): Record<string, number> {
  return Object.fromEntries(
    Object.entries(after.rows)
      .map(
        ([table, rows]) =>
          [table, Number(((rows - (before.rows[table] ?? 0)) / requests).toFixed(3))] as const,
      )
      .filter(([, rows]) => rows !== 0),
  );
}

function cpuBetween(
  before: Look,
  after: Look,
  requests: number,
): { readonly serviceCpuMs: number; readonly postgresCpuMs: number } {
  const [, from] = before.cpu;
  const [to] = after.cpu;
  return {
    serviceCpuMs: (to.server - from.server) / requests / 1000,
    postgresCpuMs: (to.postgres - from.postgres) / requests / 1000,
  };
}

async function cpuOf({ process: { pid = NaN } }: Server): Promise<Cpu> {
  const [server, postgres] = await Promise.all([pid, await bench.postgresPid()].map(cpuMicroseconds));
  return { server: server ?? NaN, postgres: postgres ?? NaN };
}

async function look(database: DataSource, server: Server): Promise<Look> {
  const begun = await cpuOf(server);
  const tables = await database.query<{ name: string; bytes: number }[]>(
    `SELECT relname AS name, pg_total_relation_size(oid)::float8 AS bytes FROM pg_class
     WHERE relkind = 'r' AND relname LIKE 'chat_image%'`,
  );
  const rows: Record<string, number> = {};
  for (const { name } of tables) {
    const [{ count }] = await database.query<[{ count: number }]>(
      `SELECT count(*)::int AS count FROM ${name}`,
    );
    rows[name] = count;
  }
  const [wal] = await database.query<[{ bytes: number; changes: number }]>(
    `SELECT (pg_current_wal_insert_lsn() - '0/0')::float8 AS bytes,
       (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE relname LIKE 'chat_image%')::float8 AS changes`,
  );
  return {
    cpu: [begun, await cpuOf(server)],
    rows,
    changes: wal.changes,
    walBytes: wal.bytes,
    tableBytes: tables.filter(({ name }) => name !== EMPTIED).reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

/** Waits until the sessions of the service have told their numbers of changes, which idle ones do after 10 seconds. */
async function settledStatistics(database: DataSource): Promise<void> {
  let last = -1;
  let same = 0;
  await eventually(async () => {
    const [{ changes }] = await database.query<[{ changes: number }]>(
      `SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::float8 AS changes, pg_sleep(1) FROM pg_stat_user_tables`,
    );
    same = changes === last ? same + 1 : 0;
    last = changes;
    return same > 10;
  }, 'the statistics of the tables');
}

async function openConnections(database: DataSource): Promise<number> {
  const [{ count }] = await database.query<[{ count: number }]>(
    `SELECT count(*)::int AS count, pg_sleep(0.05) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`,
  );
  return count;
}

async function someParticipant(database: DataSource): Promise<Uploader> {
  const [{ id, user }] = await database.query<[{ id: number; user: number }]>(
    'SELECT id::int, patient_id::int AS user FROM appointments ORDER BY id LIMIT 1',
  );
  return { token: bench.tokenOf(user), appointment: id };
}

function inSmallerBatches(load: LoadRequest): LoadRequest[] {
  const { ids } = JSON.parse(load.body) as { ids: number[] };
  return Array.from({ length: Math.floor(ids.length / BATCH) }, (_, index) => ({
    ...load,
    body: JSON.stringify({ ids: ids.slice(index * BATCH, (index + 1) * BATCH) }),
  }));
}

function sentBytes({ requests }: S3Answers, wanted: (path: string) => boolean): number {
  return requests
    .filter(({ method, url = '' }) => method === 'PUT' && wanted(url))
    .reduce((sum, { headers }) => sum + Number(headers['content-length']), 0);
}

async function repeat(count: number, atATime: number, send: () => Promise<void>): Promise<void> {
  let begun = 0;
  const client = async (): Promise<void> => {
    while (begun < count) {
      begun += 1;
      await send();
    }
  };
  await Promise.all(Array.from({ length: atATime }, client));
}

/** The app sends an idempotency key with each upload. */
async function sendUpload({ port, name }: Server, body: Buffer, type: string, token: string): Promise<void> {
  const post = request({
    port,
    agent,
    method: 'POST',
    path: '/api/upload/chat-image',
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': type,
      'content-length': body.length,
      'idempotency-key': randomUUID(),
    },
  });
  post.end(body);
  const [answer] = (await once(post, 'response')) as [IncomingMessage];
  answer.resume();
  await once(answer, 'end');
  if (answer.statusCode !== 200) throw new Error(`${name} answered ${answer.statusCode}.`);
}

async function ask({ port, name }: Server, wanted: LoadRequest | undefined): Promise<void> {
  if (!wanted) throw new Error('There are too few requests.');
  const { method, path, token, body } = wanted;
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(body === '' ? {} : { body }),
  });
  await response.text();
  if (!response.ok) throw new Error(`${name} answered ${response.status}.`);
}

/** The commands that Redis gets for a request, one after the other. */
async function redisCommands(send: (index: number) => Promise<void>): Promise<number> {
  await send(0);
  await redis.client.config('RESETSTAT');
  for (let index = 1; index <= REDIS_REQUESTS; index += 1) await send(index);
  const stats = await redis.client.info('commandstats');
  const calls = [...stats.matchAll(/^cmdstat_eval(?:sha)?:calls=(\d+)/gm)].map(([, count]) => Number(count));
  return calls.reduce((sum, count) => sum + count, 0) / REDIS_REQUESTS;
}
