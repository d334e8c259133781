/*
 * npm run bench:instances: what three instances do, compared with one, both behind HAProxy with deploy/haproxy.cfg, on one
 * database that waits for the disk and one Redis where it is installed. On a machine with few cores three instances can't
 * do more than one: what is measured is what it costs that fewer requests share a statement.
 * BENCH_POOLER=1 puts PgBouncer in transaction mode before the database. BENCH_OTHER_MAIN names the dist/main.js of another
 * version, to be measured beside this one.
 */
import type { ChildProcess } from 'node:child_process';
import { eventually } from '../support/eventually.js';
import { Haproxy } from '../support/haproxy.js';
import { PgBouncer } from '../support/pgbouncer.js';
import { hasRedis, RedisServer } from '../support/redis-server.js';
import { S3Answers } from '../support/s3-answers.js';
import { seed } from './seed.js';
import { Bench, type Installation, OFFLINE_BUCKET, withDatabase } from './service-under-test.js';
import { LoadGenerator, signedUrlRequests } from './signed-url-load.js';
import { type Figures, interleaved, type Load, type Run, warmUp } from './signed-url-measure.js';

const SIZES = { images: 100_000, appointments: 10_000, accesses: 1_000_000 };
const CONNECTIONS = (process.env.BENCH_CONNECTIONS ?? '1,16,64,192').split(',').map(Number);
const INSTANCES = [1, 3];
/** The least requests/s of three instances, of one, at 64 connections. */
const BAR = 0.85;

/** A bucket that is asked only whether it is there: HAProxy wants instances that are ready. */
const bucket = await S3Answers.start();

const bench = await Bench.open({
  durable: true,
  environment: { ...OFFLINE_BUCKET, ...bucket.environment },
  fill: (database) => seed(database, SIZES),
});
const load = await LoadGenerator.open();
const stops: (() => Promise<void>)[] = [];
/** The processes of each installation, by its port. */
const processesOf = new Map<number, readonly ChildProcess[]>();
const environment: NodeJS.ProcessEnv = { TRUST_PROXY: '1' };

/** Lets one installation run alone: another's health checks would take CPU time from it. */
const alone: Load = {
  run: async (server, ...rest) => {
    for (const [port, processes] of processesOf) {
      const signal = port === server.port ? 'SIGCONT' : 'SIGSTOP';
      for (const process of processes) process.kill(signal);
    }
    const ready = `http://127.0.0.1:${server.port}/api/health/ready`;
    await eventually(() =>
      fetch(ready).then(
        ({ ok }) => ok,
        () => false,
      ),
    );
    return load.run(server, ...rest);
  },
};

/** Instances behind HAProxy, as one server. */
async function installation(name: string, instances: number, program: string): Promise<Installation> {
  const servers: Installation[] = [];
  for (let number = 1; number <= instances; number += 1)
    servers.push(await bench.start(`${name} ${number}`, program, environment));
  const haproxy = await Haproxy.start(servers.map(({ port }) => port));
  const processes = servers.flatMap((server) => server.processes);
  processesOf.set(haproxy.port, [haproxy.process, ...processes]);
  stops.push(() => haproxy.stop());
  return { name, port: haproxy.port, processes };
}

try {
  if (process.env.BENCH_POOLER) {
    const pooler = await PgBouncer.start(bench.environment.DATABASE_URL, { default_pool_size: '30' });
    stops.push(() => pooler.stop());
    Object.assign(environment, { DATABASE_URL: pooler.url, DATABASE_POOLER: 'transaction' });
  }
  if (hasRedis()) {
    const redis = await RedisServer.start();
    stops.push(() => redis.stop());
    environment.REDIS_URL = redis.url;
  }
  const { single } = await withDatabase(bench.environment.DATABASE_URL, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  const { BENCH_OTHER_MAIN: other } = process.env;
  const programs = [['', 'dist/main.js'], ...(other === undefined ? [] : [['other version, ', other]])];
  const runs: Run[] = [];
  for (const [prefix = '', program = ''] of programs)
    for (const instances of INSTANCES)
      runs.push([await installation(`${prefix}${instances}`, instances, program), single]);
  await warmUp(alone, runs, Math.max(...CONNECTIONS));
  for (const connections of CONNECTIONS) {
    const figures = await interleaved(bench, alone, runs, connections);
    const [one] = figures;
    if (!one) throw new Error('Nothing was measured.');
    console.table(figures.map((figure, index) => row(runs[index]?.[0].name ?? '', connections, figure, one)));
  }
} finally {
  await load.close();
  for (const process of [...processesOf.values()].flat()) process.kill('SIGCONT');
  await bench.close();
  for (const stop of stops) await stop();
  bucket.stop();
}
process.exit(0);

function row(name: string, connections: number, figures: Figures, one: Figures): object {
  const ratio = figures.perSecond / one.perSecond;
  return {
    connections,
    instances: name,
    'requests/s': Math.round(figures.perSecond),
    rounds: `${Math.round(figures.slowest)}-${Math.round(figures.fastest)}`,
    'p50 ms': figures.p50Ms.toFixed(2),
    'p99 ms': figures.p99Ms.toFixed(2),
    'of one': ratio.toFixed(2),
    'CPU µs': Math.round(figures.serverCpu),
    'PostgreSQL µs': Math.round(figures.postgresCpu),
    ...(connections === 64 && name === '3'
      ? { bar: `>= ${BAR}`, met: ratio >= BAR ? 'met' : 'not met' }
      : {}),
  };
}
