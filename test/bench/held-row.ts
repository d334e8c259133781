/*
 * npm run bench:held-row: what a held row costs the signed URLs of other users. Measures p50 and p99 at 16
 * connections, without the lock, and with it while its user asks over 4 more connections, on a database that waits for
 * the disk. BENCH_OTHER_MAIN names the dist/main.js of another version, to be measured beside this one.
 */
import pg from 'pg';
import { setTimeout } from 'node:timers/promises';
import { seed } from './seed.js';
import { Bench, median, OFFLINE_BUCKET, type Server, withDatabase } from './service-under-test.js';
import { LoadGenerator, type LoadRequest, type LoadResult, signedUrlRequests } from './signed-url-load.js';
import { MEASURE_MS, ROUNDS, warmUp } from './signed-url-measure.js';

const SIZES = { images: 20_000, appointments: 2000, accesses: 100_000 };
const CONNECTIONS = 16;
const HELD_CONNECTIONS = 4;
/** The allowed factor of the median time of other users while a row is held. */
const BAR = 2;

const bench = await Bench.open({
  durable: true,
  environment: OFFLINE_BUCKET,
  fill: (database) => seed(database, SIZES),
});
const load = await LoadGenerator.open();
const holder = new pg.Client({ connectionString: bench.environment.DATABASE_URL });

/** Asks for signed URLs as the held user, until the signal. */
async function askAsHeld(
  { port }: Server,
  requests: readonly LoadRequest[],
  signal: AbortSignal,
): Promise<void> {
  for (let index = 0; !signal.aborted; index += 1) {
    const request = requests[index % requests.length];
    if (!request) return;
    const { path, token } = request;
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers, signal }).catch(
      () => undefined,
    );
    await response?.text().catch(() => undefined);
  }
}

try {
  await holder.connect();
  const { single } = await withDatabase(bench.environment.DATABASE_URL, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  const token = single[0]?.token ?? '';
  const { sub } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as {
    sub: string;
  };
  const held = single.filter((request) => request.token === token);
  const others = single.filter((request) => request.token !== token);
  const { BENCH_OTHER_MAIN: other } = process.env;
  const servers = [await bench.start('this version', 'dist/main.js')];
  if (other) servers.push(await bench.start('other version', other));
  await warmUp(
    load,
    servers.map((server) => [server, others]),
    CONNECTIONS,
  );
  const rows: object[] = [];
  for (const server of servers) {
    const free: LoadResult[] = [];
    const locked: LoadResult[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      free.push(await load.run(server, others, CONNECTIONS, MEASURE_MS));
      await holder.query('BEGIN');
      await holder.query('SELECT FROM users WHERE id = $1 FOR UPDATE', [sub]);
      const stop = new AbortController();
      const asking = Array.from({ length: HELD_CONNECTIONS }, () => askAsHeld(server, held, stop.signal));
      await setTimeout(MEASURE_MS / 10);
      locked.push(await load.run(server, others, CONNECTIONS, MEASURE_MS));
      stop.abort();
      await Promise.all(asking);
      await holder.query('ROLLBACK');
      // After this pause no row counts as held.
      await setTimeout(MEASURE_MS);
    }
    const normal = median(free.map(({ p50Ms }) => p50Ms));
    for (const [name, results] of Object.entries({ free, locked })) {
      const p50 = median(results.map(({ p50Ms }) => p50Ms));
      rows.push({
        server: server.name,
        'row of another user': name,
        'requests/s': Math.round(median(results.map(({ perSecond }) => perSecond))),
        'p50 ms': p50.toFixed(2),
        'p99 ms': median(results.map(({ p99Ms }) => p99Ms)).toFixed(2),
        ...(name === 'free' ? {} : { bar: `<= ${BAR} x`, met: p50 <= BAR * normal ? 'met' : 'not met' }),
      });
    }
  }
  console.table(rows);
} finally {
  await holder.end();
  await load.close();
  await bench.close();
}
process.exit(0);
