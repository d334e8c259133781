/*
 * npm run bench:scale: the time of a signed URL among a million images, compared with ten thousand. Uses two databases of
 * one PostgreSQL server, with a service on each, interleaved.
 */
import { seed, type Sizes } from './seed.js';
import { Bench, OFFLINE_BUCKET, withDatabase } from './service-under-test.js';
import { LoadGenerator, signedUrlRequests } from './signed-url-load.js';
import { interleaved, type Run, warmUp } from './signed-url-measure.js';

const SMALL: Sizes = { images: 10_000, appointments: 1000, accesses: 100_000 };
const LARGE: Sizes = { images: 1_000_000, appointments: 100_000, accesses: 10_000_000 };
const CONNECTIONS = [1, 16];
const MOST = 1.2;

const bench = await Bench.open({
  durable: true,
  environment: OFFLINE_BUCKET,
  fill: (database) => seed(database, SMALL),
});
const load = await LoadGenerator.open();

async function serviceOn(url: string, name: string): Promise<Run> {
  const { single } = await withDatabase(url, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  return [await bench.start(name, 'dist/main.js', { DATABASE_URL: url }), single];
}

try {
  const started = performance.now();
  const large = await bench.addDatabase('large', (database) => seed(database, LARGE));
  console.log(`${JSON.stringify(LARGE)}: seeded in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  const runs = [
    await serviceOn(bench.environment.DATABASE_URL, `${SMALL.images} images`),
    await serviceOn(large, `${LARGE.images} images`),
  ];
  await warmUp(load, runs, Math.max(...CONNECTIONS));
  const rows: object[] = [];
  for (const connections of CONNECTIONS) {
    const [few, many] = await interleaved(bench, load, runs, connections);
    if (!few || !many) throw new Error('Nothing was measured.');
    const ratio = many.p50Ms / few.p50Ms;
    rows.push({
      connections,
      [`p50 ms of ${SMALL.images}`]: few.p50Ms.toFixed(2),
      [`p50 ms of ${LARGE.images}`]: many.p50Ms.toFixed(2),
      ratio: ratio.toFixed(2),
      bar: `<= ${MOST}`,
      met: ratio <= MOST ? 'met' : 'not met',
    });
  }
  console.table(rows);
} finally {
  await load.close();
  await bench.close();
}
process.exit(0);
