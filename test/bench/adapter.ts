/*
 * npm run bench:adapter: what LeanExpressAdapter spares a signed URL. Compares the service with it, without its prototypes, and
 * with the usual ExpressAdapter, at 64 connections, interleaved, on a database that waits for the disk. Uses the
 * current Node version. BENCH_ROUNDS, BENCH_MS and BENCH_WARM_UP_MS set the rounds and times.
 */
import { seed } from './seed.js';
import { Bench, OFFLINE_BUCKET, withDatabase } from './service-under-test.js';
import { LoadGenerator, signedUrlRequests } from './signed-url-load.js';
import { interleaved, type Run, warmUp } from './signed-url-measure.js';

const SIZES = { images: 10_000, appointments: 1000, accesses: 100_000 };
const CONNECTIONS = 64;
const USUAL = 'dist/bench/test/bench/adapter-server.js';

const bench = await Bench.open({
  durable: true,
  environment: OFFLINE_BUCKET,
  fill: (database) => seed(database, SIZES),
});
const load = await LoadGenerator.open();
try {
  const { single } = await withDatabase(bench.environment.DATABASE_URL, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  const runs: Run[] = [
    [await bench.start('LeanExpressAdapter', 'dist/main.js'), single],
    [await bench.start('without its prototypes', USUAL, { WITHOUT: 'prototypes' }), single],
    [await bench.start('ExpressAdapter', USUAL, { WITHOUT: 'all' }), single],
  ];
  console.log(`Node ${process.version}, ${load.name}`);
  await warmUp(load, runs, CONNECTIONS);
  const figures = await interleaved(bench, load, runs, CONNECTIONS);
  const usual = figures.at(-1);
  if (!usual) throw new Error('Nothing was measured.');
  console.table(
    figures.map(({ perSecond, slowest, fastest, serverCpu }, index) => ({
      adapter: runs[index]?.[0].name,
      'requests/s': Math.round(perSecond),
      rounds: `${Math.round(slowest)}-${Math.round(fastest)}`,
      'of ExpressAdapter': (perSecond / usual.perSecond).toFixed(2),
      'CPU µs': Math.round(serverCpu),
      'CPU of ExpressAdapter': (serverCpu / usual.serverCpu).toFixed(2),
    })),
  );
} finally {
  await load.close();
  await bench.close();
}
process.exit(0);
