/*
 * npm run bench:installations: what the installation costs a signed URL. Compares the service on a direct database, with
 * the main application's table of revoked tokens, behind PgBouncer in transaction mode, and with rate limits in Redis,
 * interleaved, on a database that waits for the disk. BENCH_OTHER_MAIN names the dist/main.js of another version, to be
 * measured beside them. BENCH_ONLY=redis measures only one installation beside the direct database: sessions, pooler or
 * redis.
 */
import type { DataSource } from 'typeorm';
import { hasPgBouncer, PgBouncer } from '../support/pgbouncer.js';
import { hasRedis, RedisServer } from '../support/redis-server.js';
import { seed } from './seed.js';
import { Bench, OFFLINE_BUCKET, withDatabase } from './service-under-test.js';
import { LoadGenerator, signedUrlRequests } from './signed-url-load.js';
import { type Figures, interleaved, type Run, warmUp } from './signed-url-measure.js';

const SIZES = { images: 100_000, appointments: 10_000, accesses: 1_000_000 };
const CONNECTIONS = (process.env.BENCH_CONNECTIONS ?? '1,16,64').split(',').map(Number);
const BARS: Readonly<Record<string, number>> = {
  'revoked tokens': 0.95,
  pooled: 0.6,
  'limits in Redis': 0.85,
};

/** Whether an installation is measured. */
const isWanted = (name: 'sessions' | 'pooler' | 'redis'): boolean =>
  (process.env.BENCH_ONLY ?? name) === name;

/** Adds the sessions of a large main application, without the tokens of the benchmark. */
async function addSessions(database: DataSource): Promise<void> {
  await database.query(`CREATE TABLE user_sessions (
    id bigserial PRIMARY KEY, user_id bigint NOT NULL, jti varchar(64) NOT NULL UNIQUE,
    revoked_at timestamp(0) without time zone, expires_at timestamp(0) without time zone)`);
  await database.query(`INSERT INTO user_sessions (user_id, jti, revoked_at)
    SELECT n, gen_random_uuid(), CASE WHEN n % 10 = 0 THEN now() END FROM generate_series(1, 200000) n`);
  await database.query('VACUUM ANALYZE user_sessions');
}

const bench = await Bench.open({
  durable: true,
  environment: OFFLINE_BUCKET,
  fill: (database) => seed(database, SIZES),
});
const load = await LoadGenerator.open();
const stops: (() => Promise<void>)[] = [];

async function serviceOn(
  name: string,
  environment: NodeJS.ProcessEnv,
  program = 'dist/main.js',
): Promise<Run> {
  const url = environment.DATABASE_URL ?? bench.environment.DATABASE_URL;
  const { single } = await withDatabase(url, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  return [await bench.start(name, program, environment), single];
}

try {
  const runs: Run[] = [await serviceOn('direct', {})];
  if (isWanted('sessions')) {
    const sessions = await bench.addDatabase('sessions', async (database) => {
      await seed(database, SIZES);
      await addSessions(database);
    });
    runs.push(await serviceOn('revoked tokens', { DATABASE_URL: sessions }));
  }
  if (isWanted('pooler') && hasPgBouncer()) {
    const pooler = await PgBouncer.start(bench.environment.DATABASE_URL);
    stops.push(() => pooler.stop());
    runs.push(await serviceOn('pooled', { DATABASE_URL: pooler.url, DATABASE_POOLER: 'transaction' }));
  } else if (isWanted('pooler')) {
    console.log('PgBouncer is not installed: the pooled address is left out.');
  }
  if (isWanted('redis') && hasRedis()) {
    const redis = await RedisServer.start();
    stops.push(() => redis.stop());
    runs.push(await serviceOn('limits in Redis', { REDIS_URL: redis.url }));
  } else if (isWanted('redis')) {
    console.log('Redis is not installed: the limits in Redis are left out.');
  }
  const { BENCH_OTHER_MAIN: other } = process.env;
  if (other) runs.push(await serviceOn('other version', {}, other));
  await warmUp(load, runs, Math.max(...CONNECTIONS));
  for (const connections of CONNECTIONS) {
    const figures = await interleaved(bench, load, runs, connections);
    const [direct] = figures;
    if (!direct) throw new Error('Nothing was measured.');
    console.table(
      figures.map((figure, index) => row(runs[index]?.[0].name ?? '', connections, figure, direct)),
    );
  }
} finally {
  await load.close();
  await bench.close();
  for (const stop of stops) await stop();
}
process.exit(0);

function row(name: string, connections: number, figures: Figures, direct: Figures): object {
  const ratio = figures.perSecond / direct.perSecond;
  const bar = connections === 64 ? BARS[name] : undefined;
  return {
    connections,
    installation: name,
    'requests/s': Math.round(figures.perSecond),
    rounds: `${Math.round(figures.slowest)}-${Math.round(figures.fastest)}`,
    'p50 ms': figures.p50Ms.toFixed(2),
    'p99 ms': figures.p99Ms.toFixed(2),
    'of direct': ratio.toFixed(2),
    'CPU µs': Math.round(figures.serverCpu),
    'PostgreSQL µs': Math.round(figures.postgresCpu),
    ...(bar === undefined ? {} : { bar: `>= ${bar}`, met: ratio >= bar ? 'met' : 'not met' }),
  };
}
