/*
 * npm run bench:abuse: what one user's uploads cost the others. Signed URLs beside uploads of large photographs; and
 * another user's uploads and signed URLs while one sends pictures that cost much, as fast as the default limits let them.
 * On the S3 server that S3_ENDPOINT and its companions name, else on the local disk. BENCH_OTHER_MAIN names the
 * dist/main.js of another version, to be measured beside this one.
 */
import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import type { DataSource } from 'typeorm';
import { seed } from './seed.js';
import { Bench, forms, median, photograph, type Server, withDatabase } from './service-under-test.js';
import { LoadGenerator, type LoadRequest, signedUrlRequests } from './signed-url-load.js';
import { MEASURE_MS, ROUNDS } from './signed-url-measure.js';

const SIZES = { images: 20_000, appointments: 2_000, accesses: 20_000 };
const URL_CONNECTIONS = 16;
const UPLOADERS = 8;
const BARS = { p50Ms: 10, p99Ms: 50, uploads: 0.95 };

/** Two patients and two doctors of two appointments. */
const PEOPLE = { appointments: [900_145, 900_146], users: [900_001, 900_002, 900_003, 900_004] };

async function addPeople(database: DataSource): Promise<void> {
  await database.query('INSERT INTO users (id) SELECT unnest($1::bigint[])', [PEOPLE.users]);
  await database.query(
    'INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $3, $4), ($2, $5, $6)',
    [...PEOPLE.appointments, ...PEOPLE.users],
  );
}

type Answer = { readonly status: number; readonly ms: number };

/** Sends an upload of a user, to one of the appointments above, and waits for all of its answer. */
async function upload(
  server: Server,
  token: string,
  type: string,
  body: Buffer,
  agent: Agent,
): Promise<Answer> {
  const started = performance.now();
  const post = request({
    port: server.port,
    agent,
    method: 'POST',
    path: '/api/upload/chat-image',
    headers: { authorization: `Bearer ${token}`, 'content-type': type, 'content-length': body.length },
  });
  post.end(body);
  const [answer] = (await once(post, 'response')) as [IncomingMessage];
  answer.resume();
  await once(answer, 'end');
  return { status: answer.statusCode ?? 0, ms: performance.now() - started };
}

const bench = await Bench.open({
  durable: true,
  environment: { SWEEP_INTERVAL_SECONDS: '0' },
  fill: async (database) => {
    await seed(database, SIZES);
    await addPeople(database);
  },
});
const load = await LoadGenerator.open();
try {
  const { single } = await withDatabase(bench.environment.DATABASE_URL, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  console.log(`storage: ${bench.storage}; medians of ${ROUNDS} rounds of ${MEASURE_MS} ms`);
  await besideUploads(single);
} finally {
  await load.close();
  await bench.close();
}
process.exit(0);

type Beside = {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly urls: number;
  readonly uploads: number;
};

async function besideUploads(requests: readonly LoadRequest[]): Promise<void> {
  const photo = await photograph(4000, 3000, 93);
  const servers = [await bench.start('this version', 'dist/main.js')];
  const { BENCH_OTHER_MAIN: other } = process.env;
  if (other) servers.push(await bench.start('other version', other));
  const results = servers.map(() => [] as Beside[]);
  for (const server of servers) await measureBeside(server, photo, requests, 1000);
  for (let round = 0; round < ROUNDS; round += 1)
    for (const [index, server] of servers.entries())
      results[index]?.push(await measureBeside(server, photo, requests, MEASURE_MS));
  const of = (index: number, name: keyof Beside): number =>
    median((results[index] ?? []).map((result) => result[name]));
  console.table(
    servers.map(({ name }, index) => ({
      [`${URL_CONNECTIONS} connections, ${UPLOADERS} uploads of ${(photo.length / 1e6).toFixed(1)} MB`]: name,
      'signed URLs/s': Math.round(of(index, 'urls')),
      'p50 ms': of(index, 'p50Ms').toFixed(1),
      'p99 ms': of(index, 'p99Ms').toFixed(1),
      'uploads/s': of(index, 'uploads').toFixed(1),
      'of the other': other ? (of(index, 'uploads') / of(1, 'uploads')).toFixed(2) : '',
      met: index > 0 ? '' : of(0, 'p50Ms') <= BARS.p50Ms && of(0, 'p99Ms') <= BARS.p99Ms ? 'met' : 'not met',
    })),
  );
}

async function measureBeside(
  server: Server,
  photo: Buffer,
  requests: readonly LoadRequest[],
  milliseconds: number,
): Promise<Beside> {
  const agent = new Agent({ keepAlive: true, maxSockets: UPLOADERS });
  let stopped = false;
  let done = 0;
  const uploader = async (index: number): Promise<void> => {
    const form = forms(photo, PEOPLE.appointments[index % 2]);
    const token = bench.tokenOf(PEOPLE.users[(index % 2) * 2 + (Math.floor(index / 2) % 2)] ?? 0);
    while (!stopped) {
      const { status } = await upload(server, token, form.type, form.next(), agent);
      if (status !== 200) throw new Error(`An upload was answered ${status}.`);
      done += 1;
    }
  };
  const uploaders = Array.from({ length: UPLOADERS }, (_, index) => uploader(index));
  const all = Promise.all(uploaders);
  const started = performance.now();
  const from = done;
  const { perSecond: urls, p50Ms, p99Ms } = await load.run(server, requests, URL_CONNECTIONS, milliseconds);
  const uploads = ((done - from) / (performance.now() - started)) * 1000;
  stopped = true;
  await all;
  agent.destroy();
  return { urls, p50Ms, p99Ms, uploads };
}
