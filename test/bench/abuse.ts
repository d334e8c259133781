/*
 * npm run bench:abuse: what the uploads of a user cost other users. Measures signed URLs beside uploads of large photographs,
 * and uploads and signed URLs of a user while another user sends costly pictures as fast as the default limits allow.
 * Uses the S3 server of S3_ENDPOINT when it is set, else the local disk. BENCH_OTHER_MAIN names the
 * dist/main.js of another version, to be measured beside this one.
 */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { Agent, type IncomingMessage, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import {
  jpegOfScans,
  worstAcceptedGif,
  worstAcceptedGifAnimation,
  worstAcceptedJpeg,
  worstAcceptedLossyWebp,
  worstAcceptedPng,
  worstAcceptedWebp,
  worstAcceptedWebpAnimation,
} from '../support/hostile-pictures.js';
import { seed } from './seed.js';
import {
  Bench,
  form,
  FORM_TYPE,
  forms,
  median,
  photograph,
  type Server,
  withDatabase,
} from './service-under-test.js';
import { LoadGenerator, type LoadRequest, signedUrlRequests } from './signed-url-load.js';
import { MEASURE_MS, ROUNDS } from './signed-url-measure.js';

const SIZES = { images: 20_000, appointments: 2_000, accesses: 20_000 };
/** The measured part: uploads, abuse, or both. */
const ONLY = new RegExp(process.env.BENCH_ONLY ?? '');
const URL_CONNECTIONS = 16;
const UPLOADERS = 8;
const BARS = { p50Ms: 10, p99Ms: 50, uploads: 0.95, victimUploadMs: 1000, victimUrlMs: 50 };

/** The time of the abuse: half of the minute for which the upload budget counts. */
const ABUSE_MS = Number(process.env.BENCH_ABUSE_MS ?? 30_000);
const ABUSER_CONNECTIONS = 16;
const STALLED_CONNECTIONS = 60;
const STALLED_BYTES = 2 * 1024 * 1024;
const VICTIM_UPLOAD_PAUSE_MS = 250;
const VICTIM_URL_PAUSE_MS = 20;
const MEMORY_PAUSE_MS = 50;

/** Two patients and two doctors of two appointments. */
const PEOPLE = { appointments: [900_145, 900_146], users: [900_001, 900_002, 900_003, 900_004] };

async function addPeople(database: DataSource): Promise<void> {
  await database.query('INSERT INTO users (id) SELECT unnest($1::bigint[])', [[...PEOPLE.users, STRANGER]]);
  await database.query(
    'INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $3, $4), ($2, $5, $6)',
    [...PEOPLE.appointments, ...PEOPLE.users],
  );
}

const [ABUSER = 0, , VICTIM = 0] = PEOPLE.users;
const [ABUSED = 0, VICTIMS = 0] = PEOPLE.appointments;
/** A user without appointments. */
const STRANGER = 900_005;

type Answer = { readonly status: number; readonly ms: number };

/** Sends an upload to one of the appointments above, and waits for the whole response. */
async function upload(server: Server, token: string, body: Buffer, agent: Agent): Promise<Answer> {
  const started = performance.now();
  const post = request({
    port: server.port,
    agent,
    method: 'POST',
    path: '/api/upload/chat-image',
    headers: { authorization: `Bearer ${token}`, 'content-type': FORM_TYPE, 'content-length': body.length },
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
  if (ONLY.test('uploads')) await besideUploads(single);
  if (ONLY.test('abuse')) await besideCostlyPictures(single);
  if (ONLY.test('abuse')) await besideStalledUploads(single);
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
    const photos = forms(photo, PEOPLE.appointments[index % 2]);
    const token = bench.tokenOf(PEOPLE.users[(index % 2) * 2 + (Math.floor(index / 2) % 2)] ?? 0);
    while (!stopped) {
      const { status } = await upload(server, token, photos.next(), agent);
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

/** The results of a normal user during the abuse. */
type Victim = { readonly uploads: number[]; readonly urls: number[]; readonly refused: Map<number, number> };

async function besideCostlyPictures(requests: readonly LoadRequest[]): Promise<void> {
  for (const [name, pictures] of Object.entries(await costlyPictures())) {
    await besideAbuse(name, requests, async (server, isOver) => {
      const statuses = new Map<number, number>();
      const agent = new Agent({ keepAlive: true, maxSockets: ABUSER_CONNECTIONS });
      const bodies = pictures.map((bytes) => form([bytes], ABUSED));
      let sent = 0;
      const abuser = async (): Promise<void> => {
        while (!isOver()) {
          const body = bodies[sent % bodies.length];
          sent += 1;
          if (!body) throw new Error('There are no pictures.');
          const { status } = await upload(server, bench.tokenOf(ABUSER), body, agent);
          statuses.set(status, (statuses.get(status) ?? 0) + 1);
          // The pause keeps the abuser at the speed that the limits allow.
          if (status === 429) await setTimeout(1000);
        }
      };
      await Promise.all(Array.from({ length: ABUSER_CONNECTIONS }, abuser));
      agent.destroy();
      return statuses;
    });
  }
}

async function besideStalledUploads(requests: readonly LoadRequest[]): Promise<void> {
  for (const [name, user] of [
    ['stalled uploads of a participant', ABUSER],
    ['stalled uploads of a stranger', STRANGER],
  ] as const) {
    await besideAbuse(name, requests, async (server, isOver) => {
      const sockets = Array.from({ length: STALLED_CONNECTIONS }, () => stalled(server, bench.tokenOf(user)));
      while (!isOver()) await setTimeout(100);
      for (const socket of sockets) socket.destroy();
      return new Map();
    });
  }
}

/** A client that announces ten megabytes, sends two, and stops. */
function stalled({ port }: Server, token: string): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write(
    `POST /api/upload/chat-image HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer ${token}\r\n` +
      'Content-Type: multipart/form-data; boundary=bench\r\nContent-Length: 10000000\r\n\r\n' +
      '--bench\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n',
  );
  socket.write(Buffer.alloc(STALLED_BYTES, 1));
  return socket;
}

/** Lets a user abuse a new server, and measures the requests of another user. */
async function besideAbuse(
  name: string,
  requests: readonly LoadRequest[],
  abuse: (server: Server, isOver: () => boolean) => Promise<ReadonlyMap<number, number>>,
): Promise<void> {
  const server = await bench.start('this version', process.env.BENCH_MAIN ?? 'dist/main.js', {
    // This is the default.
    RATE_LIMIT_UPLOADS_PER_MINUTE: '60',
  });
  const photo = forms(await photograph(1500, 845, 84), VICTIMS);
  const agent = new Agent({ keepAlive: true });
  const victim: Victim = { uploads: [], urls: [], refused: new Map() };
  const sendPhoto = async (): Promise<void> => {
    const { status, ms } = await upload(server, bench.tokenOf(VICTIM), photo.next(), agent);
    // The pause between uploads keeps them within the budget of a minute.
    if (status === 200) victim.uploads.push(ms);
    else victim.refused.set(status, (victim.refused.get(status) ?? 0) + 1);
  };
  let asked = 0;
  const askForUrl = async (): Promise<void> => {
    const { path = '', token = '' } = requests[asked++ % requests.length] ?? {};
    const started = performance.now();
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, {
      headers: { authorization: `Bearer ${token}` },
    });
    await response.arrayBuffer();
    if (response.ok) victim.urls.push(performance.now() - started);
    else victim.refused.set(response.status, (victim.refused.get(response.status) ?? 0) + 1);
  };
  await sendPhoto();
  for (let count = 0; count < 200; count += 1) await askForUrl();
  victim.uploads.length = 0;
  victim.urls.length = 0;

  let over = false;
  const repeat = async (work: () => Promise<void>, pauseMs: number): Promise<void> => {
    while (!over) {
      await work();
      await setTimeout(pauseMs);
    }
  };
  let peak = 0;
  const abused = abuse(server, () => over);
  const measured = [
    repeat(sendPhoto, Math.max(VICTIM_UPLOAD_PAUSE_MS, ABUSE_MS / 55)),
    repeat(askForUrl, VICTIM_URL_PAUSE_MS),
    repeat(async () => {
      peak = Math.max(peak, await memoryMiB(server));
    }, MEMORY_PAUSE_MS),
  ];
  await setTimeout(ABUSE_MS);
  over = true;
  await Promise.all(measured);
  const statuses = await abused;
  agent.destroy();
  const uploads = percentile(victim.uploads, 0.95);
  const urls = percentile(victim.urls, 0.95);
  console.table({
    [name]: {
      "another's uploads": victim.uploads.length,
      'p50 ms': Math.round(percentile(victim.uploads, 0.5)),
      'p95 ms': Math.round(uploads),
      'URLs p50 ms': percentile(victim.urls, 0.5).toFixed(1),
      'URLs p95 ms': urls.toFixed(1),
      refused: JSON.stringify([...victim.refused]),
      "the one's answers": JSON.stringify([...statuses]),
      'peak MiB': Math.round(peak),
      met:
        uploads < BARS.victimUploadMs && urls < BARS.victimUrlMs && victim.refused.size === 0
          ? 'met'
          : 'not met',
    },
  });
  server.process.kill('SIGTERM');
  await once(server.process, 'exit');
}

function percentile(values: readonly number[], part: number): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length * part)] ?? NaN;
}

/** The memory of a server and its decoding processes, with shared memory counted once. */
async function memoryMiB({ process: { pid } }: Server): Promise<number> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  const pids = [String(pid), ...children.trim().split(' ').filter(Boolean)];
  const sums = await Promise.all(
    pids.map(async (one) => {
      const rollup = await readFile(`/proc/${one}/smaps_rollup`, 'utf8').catch(() => '');
      return Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1] ?? 0) / 1024;
    }),
  );
  return sums.reduce((sum, one) => sum + one, 0);
}

/** Pictures that are refused by their structure, and the slowest accepted pictures of each format. */
async function costlyPictures(): Promise<Record<string, readonly Buffer[]>> {
  return {
    'JPEGs of thousands of scans': [
      jpegOfScans({ width: 3264, height: 2448 }),
      jpegOfScans({ width: 8660, height: 5773 }),
    ],
    'the worst that is accepted': [
      worstAcceptedJpeg(),
      await worstAcceptedPng(),
      worstAcceptedGif(),
      worstAcceptedGifAnimation(),
      worstAcceptedWebp(),
      await worstAcceptedLossyWebp(),
      worstAcceptedWebpAnimation(),
    ],
  };
}
