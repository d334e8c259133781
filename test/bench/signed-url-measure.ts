import { readdir, readFile } from 'node:fs/promises';
import { type Bench, type Installation, median } from './service-under-test.js';
import type { LoadGenerator, LoadRequest } from './signed-url-load.js';

export const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 3);
export const MEASURE_MS = Number(process.env.BENCH_MS ?? 5000);
const WARM_UP_MS = Number(process.env.BENCH_WARM_UP_MS ?? 2000);

/** The figures of a round, or the medians of several rounds. */
export type Figure = {
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Microseconds of CPU per request: of the service's processes, and of all PostgreSQL processes. */
  readonly serverCpu: number;
  readonly postgresCpu: number;
};

/** The medians of the rounds, and the requests per second of the slowest and the fastest round. */
export type Figures = Figure & { readonly slowest: number; readonly fastest: number };

/** A server and its requests. */
export type Run = readonly [server: Installation, requests: readonly LoadRequest[]];

/** What sends requests to a server. */
export type Load = Pick<LoadGenerator, 'run'>;

/** Runs each server once, so that all are compiled to machine code before the measurement. */
export async function warmUp(load: Load, runs: readonly Run[], connections: number): Promise<void> {
  for (const [server, requests] of runs) await load.run(server, requests, connections, WARM_UP_MS);
}

/** Measures all runs in each round, so that changes on the machine hit all of them. */
export async function interleaved(
  bench: Bench,
  load: Load,
  runs: readonly Run[],
  connections: number,
): Promise<readonly Figures[]> {
  const postgresPid = await bench.postgresPid();
  const rounds = runs.map(() => [] as Figure[]);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [index, run] of runs.entries()) {
      rounds[index]?.push(await measure(load, run, connections, postgresPid));
    }
  }
  return rounds.map(medians);
}

async function measure(
  load: Load,
  [server, requests]: Run,
  connections: number,
  postgresPid: number,
): Promise<Figure> {
  await load.run(server, requests, connections, WARM_UP_MS);
  const servers = server.processes.map(({ pid }) => pid ?? NaN);
  const cpu = (): Promise<readonly number[]> =>
    Promise.all(
      [servers, [postgresPid]].map(async (pids) => sum(await Promise.all(pids.map(cpuMicroseconds)))),
    );
  const before = await cpu();
  const result = await load.run(server, requests, connections, MEASURE_MS);
  const [serverCpu = NaN, postgresCpu = NaN] = (await cpu()).map(
    (microseconds, index) => (microseconds - (before[index] ?? NaN)) / result.requests,
  );
  return { ...result, serverCpu, postgresCpu };
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

function medians(rounds: readonly Figure[]): Figures {
  const of = (name: keyof Figure): readonly number[] => rounds.map((round) => round[name]);
  return {
    perSecond: median(of('perSecond')),
    p50Ms: median(of('p50Ms')),
    p99Ms: median(of('p99Ms')),
    serverCpu: median(of('serverCpu')),
    postgresCpu: median(of('postgresCpu')),
    slowest: Math.min(...of('perSecond')),
    fastest: Math.max(...of('perSecond')),
  };
}

/** Linux counts CPU time in hundredths of a second. */
const TICK_MICROSECONDS = 10_000;

/**
 * The CPU time of a process and of its children, with those that have ended, in microseconds. NaN
 * outside Linux.
 */
export async function cpuMicroseconds(pid: number): Promise<number> {
  if (process.platform !== 'linux') return NaN;
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const stats = await Promise.all(
    pids.map((name) => readFile(`/proc/${name}/stat`, 'utf8').catch(() => undefined)),
  );
  let ticks = 0;
  for (const stat of stats.filter((text) => text !== undefined)) {
    // The pid and the name come before. The name may have any characters.
    const [, parent, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [user, system, usersOfEnded, systemsOfEnded] = fields.slice(9).map(Number);
    const own = parseInt(stat, 10) === pid;
    if (own || Number(parent) === pid) ticks += (user ?? 0) + (system ?? 0);
    if (own) ticks += (usersOfEnded ?? 0) + (systemsOfEnded ?? 0);
  }
  return ticks * TICK_MICROSECONDS;
}
