/*
 * npm run bench:metrics: what the metrics cost a signed URL. Compares the service without METRICS_PORT with the service that is
 * scraped every five seconds, at 64 connections, interleaved, on a database that waits for the disk. BENCH_ROUNDS, BENCH_MS
 * and BENCH_WARM_UP_MS set the rounds and times.
 */
import { freePort } from '../../src/dev/embedded-postgres.js';
import { seed } from './seed.js';
import { Bench, OFFLINE_BUCKET, withDatabase } from './service-under-test.js';
import { LoadGenerator, signedUrlRequests } from './signed-url-load.js';
import { interleaved, type Run, warmUp } from './signed-url-measure.js';

const SIZES = { images: 10_000, appointments: 1000, accesses: 100_000 };
const CONNECTIONS = 64;

/** Three times as often as Prometheus' usual interval. */
const SCRAPE_INTERVAL_MS = 5000;

const bench = await Bench.open({
  durable: true,
  environment: OFFLINE_BUCKET,
  fill: (database) => seed(database, SIZES),
});
const load = await LoadGenerator.open();
const metricsPort = await freePort();
let scrapes = 0;
let scraping: NodeJS.Timeout | undefined;
try {
  const { single } = await withDatabase(bench.environment.DATABASE_URL, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  const runs: Run[] = [
    [await bench.start('without metrics', 'dist/main.js'), single],
    [await bench.start('with metrics', 'dist/main.js', { METRICS_PORT: String(metricsPort) }), single],
  ];
  scraping = setInterval(() => void scrape(), SCRAPE_INTERVAL_MS);
  console.log(`Node ${process.version}, ${load.name}`);
  await warmUp(load, runs, CONNECTIONS);
  const figures = await interleaved(bench, load, runs, CONNECTIONS);
  const [without] = figures;
  if (!without || scrapes === 0) throw new Error('Nothing was measured, or nothing was scraped.');
  console.table(
    figures.map(({ perSecond, slowest, fastest, p50Ms, p99Ms, serverCpu }, index) => ({
      server: runs[index]?.[0].name,
      'requests/s': Math.round(perSecond),
      rounds: `${Math.round(slowest)}-${Math.round(fastest)}`,
      'of without': (perSecond / without.perSecond).toFixed(3),
      'p50 ms': p50Ms.toFixed(2),
      'p99 ms': p99Ms.toFixed(2),
      'CPU µs': serverCpu.toFixed(1),
      'CPU of without': (serverCpu / without.serverCpu).toFixed(3),
    })),
  );
} finally {
  clearInterval(scraping);
  await load.close();
  await bench.close();
}
process.exit(0);

async function scrape(): Promise<void> {
  const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
  await response.text();
  scrapes += 1;
}
