/*
 * npm run bench:upload: uploads per second and peak memory of the service, in production mode with all features,
 * with thumbnails and without them, beside bare-upload-server.ts without and with rows, interleaved in one run. Uses the S3 server of S3_ENDPOINT when it is set,
 * else the local disk.
 */
import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { Bench, forms, median, peakMiB, photograph, type Server } from './service-under-test.js';
import { cpuMicroseconds } from './signed-url-measure.js';

const WARM_UP_MS = 1000;
const MEASURE_MS = Number(process.env.BENCH_MS ?? 4000);
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 3);
const CONCURRENCIES = [1, 8, 32];

/** The place of the bare server among the servers. */
const BARE = 2;

type Result = {
  readonly perSecond: number;
  readonly peakMiB: number;
  /** Milliseconds of server CPU per upload. */
  readonly cpuMs: number;
};

async function measure(server: Server, photo: Buffer, concurrency: number, token: string): Promise<Result> {
  const agent = new Agent({ keepAlive: true, maxSockets: concurrency });
  const form = forms(photo);
  const send = async (): Promise<void> => {
    const body = form.next();
    const post = request({
      port: server.port,
      agent,
      method: 'POST',
      path: '/api/upload/chat-image',
      headers: { authorization: `Bearer ${token}`, 'content-type': form.type, 'content-length': body.length },
    });
    post.end(body);
    const [answer] = (await once(post, 'response')) as [IncomingMessage];
    answer.resume();
    await once(answer, 'end');
    if (answer.statusCode !== 200) throw new Error(`${server.name} answered ${answer.statusCode}.`);
  };
  const pid = server.process.pid ?? NaN;
  const run = async (milliseconds: number): Promise<Omit<Result, 'peakMiB'>> => {
    const started = performance.now();
    const cpu = await cpuMicroseconds(pid);
    let done = 0;
    const client = async (): Promise<void> => {
      while (performance.now() - started < milliseconds) {
        await send();
        done += 1;
      }
    };
    await Promise.all(Array.from({ length: concurrency }, client));
    const seconds = (performance.now() - started) / 1000;
    return { perSecond: done / seconds, cpuMs: ((await cpuMicroseconds(pid)) - cpu) / done / 1000 };
  };
  await run(WARM_UP_MS);
  await peakMiB(server, { reset: true });
  const figures = await run(MEASURE_MS);
  const peak = await peakMiB(server, { reset: false });
  agent.destroy();
  return { ...figures, peakMiB: peak };
}

const bench = await Bench.open();
try {
  const servers = [
    await bench.start('this service', 'dist/main.js'),
    await bench.start('no thumbnails', 'dist/main.js', { THUMBNAILS: 'false' }),
    await bench.start('bare', 'dist/bench/test/bench/bare-upload-server.js'),
    await bench.start('bare, two rows', 'dist/bench/test/bench/bare-upload-server.js', { BENCH_ROWS: '1' }),
  ];
  const photos = {
    '200 KB': await photograph(1278, 720, 82),
    '1 MB': await photograph(2560, 1440, 91),
    '3 MB': await photograph(4000, 3000, 93),
  };
  console.log(`storage: ${bench.storage}; medians of ${ROUNDS} rounds of ${MEASURE_MS} ms`);
  const rows: Record<string, string>[] = [];
  for (const [size, photo] of Object.entries(photos)) {
    for (const concurrency of CONCURRENCIES) {
      const results = servers.map(() => [] as Result[]);
      for (let round = 0; round < ROUNDS; round += 1) {
        for (const [index, server] of servers.entries()) {
          results[index]?.push(await measure(server, photo, concurrency, bench.tokenOf(1)));
        }
      }
      const bare = results[BARE]?.map(({ perSecond }) => perSecond) ?? [];
      for (const [index, all] of results.entries()) {
        const perSecond = median(all.map((result) => result.perSecond));
        rows.push({
          photo: `${size} (${Math.round(photo.length / 1000)} kB)`,
          concurrency: String(concurrency),
          server: servers[index]?.name ?? '',
          'uploads/s': perSecond.toFixed(1),
          'of bare': `${Math.round((100 * perSecond) / median(bare))} %`,
          'CPU ms': median(all.map(({ cpuMs }) => cpuMs)).toFixed(1),
          'peak MiB': Math.max(...all.map((result) => result.peakMiB)).toFixed(0),
        });
      }
    }
  }
  console.table(rows);
} finally {
  await bench.close();
}
process.exit(0);
