import autocannon from 'autocannon';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { DataSource } from 'typeorm';
import { pick, randomNumbers } from '../support/random-numbers.js';

/** The number of doctors and patients, who ask for pictures of their own appointments. */
const DOCTORS = 100;
const PATIENTS = 300;

const SINGLE_REQUESTS = 20_000;
const BATCH_REQUESTS = 500;
export const BATCH_SIZE = 100;

/** A request in so many names its picture by the file name, as old apps do. */
const BY_FILENAME_EVERY = 4;

export type LoadRequest = {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly token: string;
  readonly body: string;
};

export type LoadResult = {
  readonly requests: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
};

type Image = { readonly id: number; readonly filename: string };

type Asker = { readonly user: number; readonly images: readonly Image[] };

/**
 * Requests of several hundred users, for single pictures and for batches of a hundred. The same database gives the same
 * requests.
 *
 * @param tokenOf returns the bearer token of a user
 */
export async function signedUrlRequests(
  database: DataSource,
  tokenOf: (userId: number) => string,
): Promise<{ readonly single: readonly LoadRequest[]; readonly batch: readonly LoadRequest[] }> {
  const doctors = await askers(database, 'doctor_id', DOCTORS);
  const patients = await askers(database, 'patient_id', PATIENTS);
  const tokens = new Map([...doctors, ...patients].map(({ user }) => [user, tokenOf(user)]));
  const random = randomNumbers();
  const single = Array.from({ length: SINGLE_REQUESTS }, (_, index): LoadRequest => {
    const { user, images } = pick(random, index % 2 === 0 ? doctors : patients);
    const { id, filename } = pick(random, images);
    const name = random(BY_FILENAME_EVERY) === 0 ? filename : id;
    const path = `/api/chat-images/${name}/signed-url`;
    return { method: 'GET', path, token: tokens.get(user) ?? '', body: '' };
  });
  const withMany = doctors.filter(({ images }) => images.length >= BATCH_SIZE);
  const batch = Array.from({ length: withMany.length === 0 ? 0 : BATCH_REQUESTS }, (): LoadRequest => {
    const { user, images } = pick(random, withMany);
    const from = random(images.length - BATCH_SIZE + 1);
    const body = JSON.stringify({ ids: images.slice(from, from + BATCH_SIZE).map(({ id }) => id) });
    return { method: 'POST', path: '/api/chat-images/signed-urls', token: tokens.get(user) ?? '', body };
  });
  return { single, batch };
}

/** Evenly chosen users of a kind, with all images that they may see. */
function askers(
  database: DataSource,
  kind: 'doctor_id' | 'patient_id',
  count: number,
): Promise<readonly Asker[]> {
  return database.query(
    `WITH numbered AS (
       SELECT ${kind} AS user_id, row_number() OVER (ORDER BY ${kind}) - 1 AS number, count(*) OVER () AS all_of_them
       FROM (SELECT DISTINCT ${kind} FROM appointments) kind
     )
     SELECT user_id AS user,
       json_agg(json_build_object('id', chat_images.id, 'filename', filename) ORDER BY chat_images.id) AS images
     FROM numbered JOIN appointments ON ${kind} = user_id JOIN chat_images ON appointment_id = appointments.id
     WHERE number % greatest(all_of_them / $1, 1) = 0
     GROUP BY user_id ORDER BY user_id LIMIT $1`,
    [count],
  );
}

/**
 * The script of wrk, which repeats the requests of a file and prints the result as JSON. The headers have a fixed order,
 * as in an app. With `wrk.format` the order differs in each run, and V8 drops the code that it compiled before.
 */
const WRK_SCRIPT = `
local requests, position = {}, 0
function init()
  for line in io.lines(os.getenv('BENCH_REQUESTS')) do
    local method, path, token, body = line:match('^(%S+)\\t(%S+)\\t(%S+)\\t(.*)$')
    local lines = { method .. ' ' .. path .. ' HTTP/1.1', 'Host: ' .. wrk.headers['Host'], 'Authorization: Bearer ' .. token }
    if body ~= '' then
      lines[4] = 'Content-Type: application/json'
      lines[5] = 'Content-Length: ' .. #body
    end
    requests[#requests + 1] = table.concat(lines, '\\r\\n') .. '\\r\\n\\r\\n' .. body
  end
  position = tonumber(os.getenv('BENCH_FROM')) % #requests
end
function request()
  position = position % #requests + 1
  return requests[position]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"failures":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
`;

/** Sends requests over keep-alive connections, each after the previous response, with wrk when it is installed. */
export class LoadGenerator {
  readonly name = spawnSync('wrk', ['--version']).error ? 'autocannon' : 'wrk';
  private readonly files = new Map<readonly LoadRequest[], string>();
  /** The runs per server. Each run begins at another request, the same for all servers. */
  private readonly begun = new Map<number, number>();

  private constructor(private readonly folder: string) {}

  static async open(): Promise<LoadGenerator> {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-load-'));
    await writeFile(join(folder, 'wrk.lua'), WRK_SCRIPT);
    return new LoadGenerator(folder);
  }

  /** @throws Error when a response was not a success */
  async run(
    { port }: { readonly port: number },
    requests: readonly LoadRequest[],
    connections: number,
    milliseconds: number,
  ): Promise<LoadResult> {
    const run = this.begun.get(port) ?? 0;
    this.begun.set(port, run + 1);
    const from = (run * 7919) % requests.length;
    const { failures, ...result } = await (this.name === 'wrk'
      ? this.wrk(port, requests, connections, milliseconds, from)
      : withAutocannon(port, requests, connections, milliseconds, from));
    if (failures > 0 || result.requests === 0) {
      throw new Error(`${failures} requests failed, ${result.requests} did not.`);
    }
    return result;
  }

  async close(): Promise<void> {
    await rm(this.folder, { recursive: true });
  }

  private async wrk(
    port: number,
    requests: readonly LoadRequest[],
    connections: number,
    milliseconds: number,
    from: number,
  ): Promise<LoadResult & { readonly failures: number }> {
    const { stdout } = await promisify(execFile)(
      'wrk',
      [
        ...['-t1', `-c${connections}`, `-d${Math.ceil(milliseconds / 1000)}s`, '--timeout=10s'],
        ...['-s', join(this.folder, 'wrk.lua'), `http://127.0.0.1:${port}`],
      ],
      { env: { ...process.env, BENCH_REQUESTS: await this.fileOf(requests), BENCH_FROM: String(from) } },
    );
    const result = JSON.parse(stdout.slice(stdout.lastIndexOf('{'))) as Record<
      'requests' | 'microseconds' | 'p50' | 'p99' | 'failures',
      number
    >;
    return {
      requests: result.requests,
      perSecond: result.requests / (result.microseconds / 1e6),
      p50Ms: result.p50 / 1000,
      p99Ms: result.p99 / 1000,
      failures: result.failures,
    };
  }

  private async fileOf(requests: readonly LoadRequest[]): Promise<string> {
    const known = this.files.get(requests);
    if (known !== undefined) return known;
    const path = join(this.folder, `requests-${this.files.size}.tsv`);
    const lines = requests.map(({ method, path: url, token, body }) => [method, url, token, body].join('\t'));
    await writeFile(path, `${lines.join('\n')}\n`);
    this.files.set(requests, path);
    return path;
  }
}

async function withAutocannon(
  port: number,
  requests: readonly LoadRequest[],
  connections: number,
  milliseconds: number,
  from: number,
): Promise<LoadResult & { readonly failures: number }> {
  const ordered = [...requests.slice(from), ...requests.slice(0, from)].map(
    ({ method, path, token, body }): autocannon.Request => ({
      method,
      path,
      headers: {
        authorization: `Bearer ${token}`,
        ...(body === '' ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === '' ? {} : { body }),
    }),
  );
  let clients = 0;
  const latencies: number[] = [];
  const result = await autocannon({
    url: `http://127.0.0.1:${port}`,
    connections,
    duration: Math.ceil(milliseconds / 1000),
    setupClient: (client) => {
      // Each connection gets a share of the requests, as it prepares all of them before it begins.
      client.setRequests(ordered.filter((_, index) => index % connections === clients));
      clients += 1;
      // The figures of the result are whole milliseconds.
      client.on('response', (_status, _bytes, latencyMs) => latencies.push(latencyMs));
    },
  });
  latencies.sort((a, b) => a - b);
  const percentile = (part: number): number => latencies[Math.floor(latencies.length * part)] ?? NaN;
  return {
    requests: result['2xx'],
    perSecond: result['2xx'] / result.duration,
    p50Ms: percentile(0.5),
    p99Ms: percentile(0.99),
    failures: result.non2xx + result.errors + result.timeouts,
  };
}
