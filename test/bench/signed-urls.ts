/*
 * npm run bench: signed URLs of this service, in production mode with all features, beside the bare reference, the
 * usual NestJS endpoint, and two ceilings that answer a constant, interleaved in one run, on a database that
 * waits for the disk at every commit. Uses wrk when it is installed, else autocannon.
 *
 * BENCH_IMAGES, BENCH_ROUNDS, BENCH_MS and BENCH_WARM_UP_MS set the size and times, BENCH_SHARED_BUFFERS the memory of
 * PostgreSQL (2GB), TMPDIR the disk.
 */
import { S3Client } from '@aws-sdk/client-s3';
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { S3UrlSigner } from '../../src/storage/s3-url-signer.js';
import { seed } from './seed.js';
import { Bench, median, OFFLINE_BUCKET, type Server, withDatabase } from './service-under-test.js';
import { assertSameAnswers, type Servers } from './signed-url-answers.js';
import { barChart } from './signed-url-chart.js';
import { BATCH_SIZE, LoadGenerator, type LoadRequest, signedUrlRequests } from './signed-url-load.js';
import { type Figures, interleaved, MEASURE_MS, ROUNDS, warmUp } from './signed-url-measure.js';

const IMAGES = Number(process.env.BENCH_IMAGES ?? 100_000);
const SIZES = { images: IMAGES, appointments: Math.ceil(IMAGES / 10), accesses: IMAGES * 10 };
const CONNECTIONS = [1, 16, 64] as const;
const RESULTS = 'docs/bench';

type Role = keyof Servers;
type Results = {
  readonly singles: Readonly<Record<(typeof CONNECTIONS)[number], Readonly<Record<Role, Figures>>>>;
  /** The figures at one connection; undefined when the service has no such route. */
  readonly batch: { readonly single: Figures; readonly batch: Figures } | undefined;
  /** The URLs per second of the signer alone, in this process. */
  readonly signedPerSecond: number;
};

/** A goal of the service. */
type Goal = { readonly name: string; readonly value: number | undefined } & (
  { readonly atLeast: number } | { readonly atMost: number }
);

async function startServers(bench: Bench): Promise<Servers> {
  const program = (name: string): string => `dist/bench/test/bench/${name}.js`;
  const nest = { FRAMEWORK: 'nest' };
  return {
    service: await bench.start('this service', 'dist/main.js'),
    bare: await bench.start('bare node:http + pg', program('bare-signed-url-server')),
    plain: await bench.start('plain NestJS', program('plain-nest-server')),
    nestConstant: await bench.start('NestJS, a constant', program('constant-servers'), nest),
    httpConstant: await bench.start('node:http, a constant', program('constant-servers')),
  };
}

async function measure(bench: Bench, load: LoadGenerator, servers: Servers): Promise<Results> {
  const { single, batch } = await withDatabase(bench.environment.DATABASE_URL, (database) =>
    signedUrlRequests(database, (user) => bench.tokenOf(user)),
  );
  await assertSameAnswers(bench, servers, single);
  const roles = Object.keys(servers) as Role[];
  const runs = roles.map((role) => [servers[role], single] as const);
  const { service } = servers;
  const batches = batch[0] && (await knows(service, batch[0])) ? ([[service, batch]] as const) : [];
  await warmUp(load, [...runs, ...batches], Math.max(...CONNECTIONS));
  const singles = {} as Record<(typeof CONNECTIONS)[number], Record<Role, Figures>>;
  for (const connections of CONNECTIONS) {
    const figures = await interleaved(bench, load, runs, connections);
    singles[connections] = Object.fromEntries(roles.map((role, index) => [role, figures[index]])) as Record<
      Role,
      Figures
    >;
  }
  const loops: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) loops.push(await signInALoop());
  const signedPerSecond = median(loops);
  if (batches.length === 0) return { singles, batch: undefined, signedPerSecond };
  const [ofOne, ofMany] = await interleaved(bench, load, [[service, single], ...batches], 1);
  return { singles, batch: ofOne && ofMany && { single: ofOne, batch: ofMany }, signedPerSecond };
}

/** @returns signed URLs per second, each with a new key and the current time */
async function signInALoop(): Promise<number> {
  const credentials = {
    accessKeyId: OFFLINE_BUCKET.DO_SPACES_KEY,
    secretAccessKey: OFFLINE_BUCKET.DO_SPACES_SECRET,
    region: OFFLINE_BUCKET.DO_SPACES_REGION,
  };
  const { sha256 } = new S3Client({ region: credentials.region }).config;
  const signer = new S3UrlSigner(OFFLINE_BUCKET.DO_SPACES_URL, credentials, sha256);
  const began = performance.now();
  let signed = 0;
  for (; performance.now() - began < MEASURE_MS; signed += 1)
    await signer.sign(`chat_images/appointment_${signed % 1000}/1762379401_${signed}.jpg`, 3600, new Date());
  return (signed / (performance.now() - began)) * 1000;
}

/** Whether a server has the route of a request. */
async function knows({ port }: Server, { method, path, token, body }: LoadRequest): Promise<boolean> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const { status } = await fetch(`http://127.0.0.1:${port}${path}`, { method, headers, body });
  return status !== 404;
}

function goalsOf({ singles, batch }: Results): readonly Goal[] {
  const { service, bare, plain, nestConstant } = singles[64];
  const alone = singles[1];
  return [
    {
      name: 'requests/s at 64 connections, of the bare reference',
      value: service.perSecond / bare.perSecond,
      atLeast: 1.4,
    },
    {
      name: 'requests/s at 64 connections, of the constant NestJS route',
      value: service.perSecond / nestConstant.perSecond,
      atLeast: 1,
    },
    {
      name: 'requests/s at 64 connections, of the plain NestJS version',
      value: service.perSecond / plain.perSecond,
      atLeast: 4,
    },
    {
      name: 'p99 at 64 connections, of the bare reference',
      value: service.p99Ms / bare.p99Ms,
      atMost: 1,
    },
    {
      name: 'p50 at 1 connection, of the bare reference',
      value: alone.service.p50Ms / alone.bare.p50Ms,
      atMost: 1.5,
    },
    {
      name: `p50 of a batch of ${BATCH_SIZE} at 1 connection, of a single URL`,
      value: batch && batch.batch.p50Ms / batch.single.p50Ms,
      atMost: 8,
    },
  ];
}

const isMet = (goal: Goal): boolean =>
  goal.value !== undefined && ('atLeast' in goal ? goal.value >= goal.atLeast : goal.value <= goal.atMost);

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));

function print(servers: Servers, results: Results, goals: readonly Goal[]): void {
  const rows = CONNECTIONS.flatMap((connections) => {
    const figures = results.singles[connections];
    return (Object.keys(servers) as Role[]).map((role) => {
      const { perSecond, slowest, fastest, p50Ms, p99Ms, serverCpu, postgresCpu } = figures[role];
      const times = (other: Role): number => rounded(perSecond / figures[other].perSecond, 2);
      return {
        connections,
        server: servers[role].name,
        'requests/s': Math.round(perSecond),
        rounds: `${Math.round(slowest)}-${Math.round(fastest)}`,
        'p50 ms': rounded(p50Ms, 2),
        'p99 ms': rounded(p99Ms, 2),
        '× bare': times('bare'),
        '× constant': times('nestConstant'),
        '× plain': times('plain'),
        'CPU µs': Math.round(serverCpu),
        'PostgreSQL µs': Math.round(postgresCpu),
      };
    });
  });
  console.table(rows);
  console.log(`URLs signed a second, by the signer alone: ${Math.round(results.signedPerSecond)}`);
  console.table(
    goals.map((goal) => ({
      goal: goal.name,
      bar: 'atLeast' in goal ? `>= ${goal.atLeast}` : `<= ${goal.atMost}`,
      value: goal.value === undefined ? 'no such route' : rounded(goal.value, 2),
      met: isMet(goal) ? 'met' : 'not met',
    })),
  );
}

/** Writes the figures, without data that identify the machine. */
async function write(
  servers: Servers,
  { singles, batch }: Results,
  goals: readonly Goal[],
  load: LoadGenerator,
): Promise<void> {
  const json = (figures: Figures): object => ({
    requests_per_second: Math.round(figures.perSecond),
    requests_per_second_of_slowest_round: Math.round(figures.slowest),
    requests_per_second_of_fastest_round: Math.round(figures.fastest),
    p50_ms: rounded(figures.p50Ms, 3),
    p99_ms: rounded(figures.p99Ms, 3),
    server_cpu_us_per_request: rounded(figures.serverCpu, 1),
    postgres_cpu_us_per_request: rounded(figures.postgresCpu, 1),
  });
  const roles = Object.keys(servers) as Role[];
  const report = {
    node: process.version,
    cpus: availableParallelism(),
    load: load.name,
    ...SIZES,
    rounds: ROUNDS,
    seconds: MEASURE_MS / 1000,
    figures: CONNECTIONS.flatMap((connections) =>
      roles.map((role) => ({ connections, server: servers[role].name, ...json(singles[connections][role]) })),
    ),
    batch: batch ? { size: BATCH_SIZE, single: json(batch.single), batch: json(batch.batch) } : null,
    goals: goals.map((goal) => ({
      ...goal,
      value: goal.value === undefined ? null : rounded(goal.value, 3),
      met: isMet(goal),
    })),
  };
  await mkdir(RESULTS, { recursive: true });
  await writeFile(`${RESULTS}/signed-urls.json`, `${JSON.stringify(report, null, 2)}\n`);
  // The bar of the last ceiling would be so long that the other bars could not be seen.
  const { httpConstant, ...bars } = singles[64];
  const ceiling = Math.round(httpConstant.perSecond).toLocaleString('en');
  const chart = barChart(
    'Signed URLs per second at 64 connections',
    `In brackets: this service is so many times as fast as that server. node:http with a constant: ${ceiling}.`,
    (Object.keys(bars) as (keyof typeof bars)[]).map((role) => ({
      name: servers[role].name,
      value: bars[role].perSecond,
      isService: role === 'service',
    })),
  );
  await writeFile(`${RESULTS}/signed-urls.svg`, chart);
}

const started = performance.now();
const bench = await Bench.open({
  durable: true,
  environment: OFFLINE_BUCKET,
  fill: (database) => seed(database, SIZES),
});
const load = await LoadGenerator.open();
try {
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${IMAGES} images, seeded in ${seconds} s; ${load.name}; ${ROUNDS} rounds of ${MEASURE_MS} ms`);
  const servers = await startServers(bench);
  const results = await measure(bench, load, servers);
  const goals = goalsOf(results);
  print(servers, results, goals);
  await write(servers, results, goals, load);
} finally {
  await load.close();
  await bench.close();
}
process.exit(0);
