import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { parse } from 'yaml';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { SettingsError } from '../../src/config/settings.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { ERROR_CODES } from '../../src/errors/app-error.js';
import { createLogger } from '../../src/observability/logger.js';
import { METRICS } from '../../src/observability/metrics.js';
import { createApp } from '../../src/server.js';
import { UpkeepSchedule } from '../../src/upkeep/upkeep-schedule.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { isPortOpen } from '../support/port-open.js';
import { hasPromtool, promtool } from '../support/promtool.js';
import { Client } from '../support/raw-clients.js';
import { refusal, S3Answers } from '../support/s3-answers.js';
import { type Sample, samplesOf, selectionsOf } from '../support/scrape.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

const REQUESTS = 'chat_images_http_request_duration_seconds';
const UPLOAD = '/api/upload/chat-image';
const SIGNED_URL = '/api/chat-images/:id/signed-url';

type Labels = Sample['labels'];
type Uploaded = UploadedChatImageResponseDto['data'];

let answers: S3Answers;
let test: TestApp;
let port: number;

beforeAll(async () => {
  answers = await S3Answers.start();
  port = await freePort();
  test = await TestApp.start({
    ...answers.environment,
    METRICS_PORT: String(port),
    MIGRATION_PHASE: '1',
    LEGACY_MEDIA_URL: 'https://old.example.com/pictures',
    // The sweeper runs when a test says so.
    SWEEP_INTERVAL_SECONDS: '3600',
  });
});

afterAll(async () => {
  await test.stop();
  answers.stop();
});

const text = async (): Promise<string> => (await fetch(`http://127.0.0.1:${port}/metrics`)).text();

const scrape = async (): Promise<Sample[]> => samplesOf(await text());

/** The sum of all samples with a name and these labels; `undefined` where there is none. */
function valueOf(samples: readonly Sample[], name: string, labels: Labels = {}): number | undefined {
  const found = samples.filter(
    (sample) =>
      sample.name === name &&
      Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  );
  return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0);
}

/** Waits for a value: a request is counted after its response. */
async function expectValue(name: string, labels: Labels, expected: number): Promise<void> {
  let last: number | undefined;
  await eventually(async () => (last = valueOf(await scrape(), name, labels)) === expected, name).catch(
    () => {
      expect([name, labels, last]).toEqual([name, labels, expected]);
    },
  );
}

async function upload(bytes: Buffer): Promise<Uploaded> {
  const response = await test.upload(bytes);
  return ((await response.json()) as UploadedChatImageResponseDto).data;
}

describe('the metrics', () => {
  let uploaded: Uploaded;
  let bytes: Buffer;

  beforeAll(async () => {
    bytes = await picture('jpeg', 320, 240);
    uploaded = await upload(bytes);
  });

  it('have the stages of an upload, in time and bytes', async () => {
    await expectValue(`${REQUESTS}_count`, { route: UPLOAD, status: '200' }, 1);
    const samples = await scrape();
    const [row] = await test.database.query<{ size: number; thumbnail: number }[]>(
      'SELECT size, thumbnail_size AS thumbnail FROM chat_images WHERE id = $1',
      [uploaded.id],
    );
    const { size, thumbnail } = row ?? { size: NaN, thumbnail: NaN };
    const passed = { received: bytes.length, waited: bytes.length, cleaned: size, decoded: size };
    const stages = { ...passed, put: size + thumbnail, committed: size + thumbnail };
    let seconds = 0;
    for (const [stage, expected] of Object.entries(stages)) {
      const of = (name: string): number | undefined =>
        valueOf(samples, `chat_images_upload_stage_${name}`, { stage });
      expect([stage, of('bytes_total'), of('duration_seconds_count')]).toEqual([stage, expected, 1]);
      seconds += of('duration_seconds_sum') ?? NaN;
    }
    // The request's time is rounded to a tenth of a millisecond.
    expect(seconds).toBeLessThanOrEqual(
      (valueOf(samples, `${REQUESTS}_sum`, { route: UPLOAD }) ?? NaN) + 0.0001,
    );
    expect(valueOf(samples, 'chat_images_decode_wait_seconds_count')).toBe(1);
    expect(valueOf(samples, 'chat_images_decode_running')).toBe(0);
    expect(valueOf(samples, 'chat_images_upload_memory_bytes')).toBe(0);
    expect(valueOf(samples, 'chat_images_upload_memory_limit_bytes')).toBe(test.settings.uploads.memoryBytes);
  });

  it('have requests by route, status and error code', async () => {
    const path = `/api/chat-images/${uploaded.id}/signed-url`;
    for (const as of [DOCTOR, PATIENT, OUTSIDER, undefined])
      await test.fetch(path, as === undefined ? {} : { as });
    await test.fetch('/api/chat-images/999999/signed-url', { as: DOCTOR });
    await test.upload(Buffer.from('no picture at all'));
    await test.fetch(`/nothing/${uploaded.id}`, { as: DOCTOR });
    for (const [route, status, error_code, expected] of [
      [SIGNED_URL, '200', 'none', 2],
      [SIGNED_URL, '403', 'FORBIDDEN', 1],
      [SIGNED_URL, '401', 'UNAUTHENTICATED', 1],
      [SIGNED_URL, '404', 'IMAGE_NOT_FOUND', 1],
      [UPLOAD, '422', 'INVALID_IMAGE', 1],
      ['none', '404', 'NOT_FOUND', 1],
    ] as const)
      await expectValue(`${REQUESTS}_count`, { route, status, error_code }, expected);
    const samples = await scrape();
    const labels = { method: 'GET', route: SIGNED_URL, status: '200' };
    const buckets = samples.filter(
      ({ name, labels: { route, status } }) =>
        name === `${REQUESTS}_bucket` && route === SIGNED_URL && status === '200',
    );
    const counts = buckets.map(({ value }) => value);
    expect(counts).toEqual(counts.toSorted((a, b) => a - b));
    expect(buckets.at(-1)).toMatchObject({ labels: { ...labels, le: '+Inf' }, value: 2 });
  });

  it('have the number of requests in shared statements', async () => {
    const before = await scrape();
    await Promise.all(
      Array.from({ length: 20 }, () =>
        test.fetch(`/api/chat-images/${uploaded.id}/signed-url`, { as: DOCTOR }),
      ),
    );
    const after = await scrape();
    const added = (name: string): number => (valueOf(after, name) ?? NaN) - (valueOf(before, name) ?? NaN);
    expect(added('chat_images_shared_statement_items_sum')).toBe(20);
    const statements = added('chat_images_shared_statement_items_count');
    expect(statements).toBeGreaterThanOrEqual(1);
    expect(statements).toBeLessThanOrEqual(20);
    expect(added('chat_images_shared_statement_wait_seconds_count')).toBe(statements);
  });

  it('have the connections of both pools, and those that wait', async () => {
    const { poolSize } = test.settings.database;
    let samples = await scrape();
    for (const [pool, max] of [
      ['requests', poolSize - 1],
      ['upkeep', 1],
    ] as const) {
      expect(valueOf(samples, 'chat_images_database_connections_max', { pool })).toBe(max);
      expect(valueOf(samples, 'chat_images_database_connections_idle', { pool })).toBeGreaterThanOrEqual(1);
    }
    // Requests for a locked table occupy connections until the lock ends.
    const locker = test.database.createQueryRunner();
    await locker.startTransaction();
    await locker.query('LOCK TABLE appointments IN ACCESS EXCLUSIVE MODE');
    const blocked = [
      test.fetch(`/api/chat-images/${uploaded.id}/signed-url`, { as: DOCTOR }),
      test.fetch(`/api/appointments/${APPOINTMENT}/chat-images`, { as: DOCTOR }),
    ];
    await eventually(async () => {
      samples = await scrape();
      return (valueOf(samples, 'chat_images_database_connections_in_use', { pool: 'requests' }) ?? 0) > 0;
    }, 'a connection in use');
    await locker.rollbackTransaction();
    await locker.release();
    await Promise.all(blocked);
  });

  it("have the storage's answers by operation and status, and its failures", async () => {
    const seconds = 'chat_images_storage_request_duration_seconds_count';
    expect(valueOf(await scrape(), seconds, { operation: 'put', status: '200' })).toBe(2);
    const isPut = ({ method }: { method?: string }): boolean => method === 'PUT';
    answers.answerWith(refusal(403, 'SignatureDoesNotMatch', isPut));
    await test.upload(await picture('png'));
    answers.answerWith(refusal(503, 'SlowDown', isPut));
    await test.upload(await picture('png'));
    answers.answerWith(({ socket }) => {
      socket.destroy();
    });
    await test.upload(await picture('png'));
    answers.answerWith();
    const samples = await scrape();
    // Picture and thumbnail; a status that may pass is tried twice.
    for (const [status, expected] of [
      ['200', 2],
      ['403', 2],
      ['503', 4],
      ['unreachable', 4],
    ] as const)
      expect([status, valueOf(samples, seconds, { operation: 'put', status })]).toEqual([status, expected]);
    for (const failure of ['wrong-secret', 'failing', 'unreachable'])
      expect([failure, valueOf(samples, 'chat_images_storage_failures_total', { failure })]).toEqual([
        failure,
        2,
      ]);
    await expectValue(`${REQUESTS}_count`, { status: '503', error_code: 'STORAGE_UNAVAILABLE' }, 3);
  });

  it('have the rows that wait for the sweeper, and survive a database that does not answer', async () => {
    const rows = 'chat_images_backlog_rows';
    const { id } = await upload(await picture('png'));
    await test.database.query('DELETE FROM chat_images WHERE id = $1', [id]);
    // The three uploads of the test above were abandoned. The deleted picture has a thumbnail.
    await expectValue(rows, { kind: 'abandoned' }, 3);
    await expectValue(rows, { kind: 'tombstone' }, 2);
    const samples = await scrape();
    expect(valueOf(samples, rows, { kind: 'pending' })).toBe(0);
    expect(valueOf(samples, 'chat_images_backlog_oldest_age_seconds', { kind: 'pending' })).toBe(0);
    expect(valueOf(samples, 'chat_images_backlog_oldest_age_seconds', { kind: 'abandoned' })).toBeGreaterThan(
      0,
    );
    expect(valueOf(samples, 'chat_images_tombstones_overdue_seconds')).toBeGreaterThan(0);
    expect(valueOf(samples, 'chat_images_clock_ahead_seconds', { of: 'database' })).toBe(0);
    expect(valueOf(samples, 'chat_images_database_up')).toBe(1);

    const locker = test.database.createQueryRunner();
    await locker.startTransaction();
    await locker.query('LOCK TABLE chat_image_tombstones IN ACCESS EXCLUSIVE MODE');
    await expectValue('chat_images_database_up', {}, 0);
    // Series without a value are left out.
    expect(valueOf(await scrape(), rows)).toBeUndefined();
    await locker.rollbackTransaction();
    await locker.release();
    await expectValue('chat_images_database_up', {}, 1);
  });

  it('have the last sweep, and the last comparison of the storage with the rows', async () => {
    await test.app.get(UpkeepSchedule).run();
    const samples = await scrape();
    expect(valueOf(samples, 'chat_images_sweeps_total', { result: 'done' })).toBe(1);
    expect(valueOf(samples, 'chat_images_last_sweep_removed', { kind: 'object' })).toBe(2);
    expect(valueOf(samples, 'chat_images_last_sweep_failures')).toBe(0);
    expect(valueOf(samples, 'chat_images_last_reconcile_timestamp_seconds')).toBeGreaterThan(0);
    // The scripted storage keeps nothing: the one stored picture, and its thumbnail.
    expect(valueOf(samples, 'chat_images_last_reconcile_missing_objects')).toBe(2);
    await test.database.query('ALTER TABLE chat_image_tombstones RENAME TO lost');
    await test.app.get(UpkeepSchedule).run();
    await test.database.query('ALTER TABLE lost RENAME TO chat_image_tombstones');
    expect(valueOf(await scrape(), 'chat_images_sweeps_total', { result: 'failed' })).toBe(1);
  });

  it('have opens without a token by phase, and none of a HEAD or with a token', async () => {
    const { pathname } = new URL(uploaded.media_url);
    const unknown = `/storage/chat_images/appointment_${APPOINTMENT}/1600000000_OldPicture.jpg`;
    for (const path of [pathname, pathname, unknown]) expect((await test.fetch(path)).status).toBe(302);
    await test.fetch(pathname, { method: 'HEAD' });
    await test.fetch(pathname, { as: DOCTOR });
    const opens = (await scrape()).filter(({ name }) => name === 'chat_images_opens_without_token_total');
    expect(opens.map(({ labels, value }) => ({ ...labels, value }))).toEqual([
      { phase: '1', result: 'opened', value: 2 },
      { phase: '1', result: 'redirected', value: 1 },
    ]);
  });

  it('have no more label values after hostile requests, and no ids or names', async () => {
    const attack = async (round: string): Promise<void> => {
      const paths = Array.from({ length: 40 }, (_, index) => [
        `/${round}/${index}/%zz/..%2f`,
        `/api/chat-images/${round}${index}/signed-url?x=${round}${index}`,
        `/storage/chat_images/appointment_${index}/${round}${index}.jpg`,
        `/api/appointments/${round}${index}/chat-images`,
      ]).flat();
      const statuses = paths.map(async (path, index) => {
        const as = index % 2 === 0 ? { as: OUTSIDER } : {};
        return (await test.fetch(path, { ...as, method: ['GET', 'HEAD', 'PUT', 'POST'][index % 4] ?? 'GET' }))
          .status;
      });
      await Promise.all(statuses);
      for (const method of ['PROPFIND', 'PURGE', 'M-SEARCH', 'NONSENSE']) {
        const client = new Client(test);
        await client.send(`${method} /${round} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`);
        await client.answersUntilClosed();
      }
    };
    const countOf = (samples: readonly Sample[]): number | undefined => valueOf(samples, `${REQUESTS}_count`);
    const attacked = async (round: string): Promise<Sample[]> => {
      const before = countOf(await scrape()) ?? 0;
      await attack(round);
      return eventually(async () => {
        const samples = await scrape();
        return (countOf(samples) ?? 0) >= before + 164 && samples;
      }, 'all requests to be counted');
    };
    const first = await attacked('first');
    const second = await attacked('second');
    const seriesOf = (samples: readonly Sample[]): string[] =>
      samples
        .filter(({ name }) => name.startsWith('chat_images_'))
        .map(({ name, labels }) => `${name} ${JSON.stringify(labels)}`);
    expect(seriesOf(second).sort()).toEqual(seriesOf(first).sort());
    const methods = new Set(
      second.map(({ labels }) => labels.method).filter((method) => method !== undefined),
    );
    expect([...methods].sort()).toEqual(['GET', 'HEAD', 'POST', 'other']);
    const labelValues = second
      .flatMap(({ labels }) => Object.entries(labels))
      .filter(([label]) => label !== 'le');
    for (const [, value] of labelValues) expect(value).not.toMatch(/first|second|\d{4}|appointment_\d|\.jpg/);
  });

  it('have what the alert rules and the dashboard ask for', async () => {
    const { groups } = parse(await readFile('ops/alerts.yml', 'utf8')) as {
      groups: { rules: { expr: string }[] }[];
    };
    const dashboard = JSON.parse(await readFile('ops/dashboard.json', 'utf8')) as {
      panels: { title: string; targets?: { expr: string }[] }[];
    };
    const expressions = [
      ...groups.flatMap(({ rules }) => rules.map(({ expr }) => expr)),
      ...dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
    ];
    // Node has collected garbage by now, or will.
    const samples = await eventually(async () => {
      const all = await scrape();
      return all.some(({ name }) => name === 'nodejs_gc_duration_seconds_count') && all;
    });
    const labelsOf = new Map<string, Set<string>>();
    for (const { name, labels } of samples) {
      const known = labelsOf.get(name) ?? new Set(['job', 'instance']);
      labelsOf.set(name, known);
      for (const label of Object.keys(labels)) known.add(label);
    }
    const routes = new Set(samples.map(({ labels }) => labels.route));
    const selections = expressions.flatMap((expr) => {
      const found = selectionsOf(expr);
      if (found.length === 0) throw new Error(`This expression names no metric: ${expr}`);
      return found;
    });
    for (const { metric, labels, values } of selections) {
      expect([...labelsOf.keys()]).toContain(metric);
      expect([metric, labels.filter((label) => !labelsOf.get(metric)?.has(label))]).toEqual([metric, []]);
      if (values.route !== undefined) expect([...routes]).toContain(values.route);
      if (values.error_code !== undefined) expect([...ERROR_CODES, 'none']).toContain(values.error_code);
    }
  });

  it('are in the list of the documentation, and nothing else is', async () => {
    const documented = (await readFile('docs/metrics.md', 'utf8')).matchAll(/^\| `(chat_images_\w+)/gm);
    const served = (await text()).matchAll(/^# TYPE (chat_images_\w+)/gm);
    expect([...documented].map(([, name]) => name).sort()).toEqual(
      [...served].map(([, name]) => name).sort(),
    );
  });

  (hasPromtool() ? it : it.skip)('keep the conventions of Prometheus, by promtool', async () => {
    const own = (await text())
      .split('\n')
      .filter((line) => /^(# (HELP|TYPE) )?chat_images_/.test(line))
      .join('\n');
    expect(promtool(['check', 'metrics'], `${own}\n`)).toEqual({ code: 0, output: '' });
  });
});

describe('the port of the metrics', () => {
  it.each([
    ['GET', '/'],
    ['GET', '/metrics/'],
    ['GET', '/api/health'],
    ['POST', '/metrics'],
    ['HEAD', '/metrics'],
  ])('answers %s %s with 404', async (method, path) => {
    expect((await fetch(`http://127.0.0.1:${port}${path}`, { method })).status).toBe(404);
  });

  it('serves GET /metrics as text of Prometheus', async () => {
    const response = await fetch(`http://127.0.0.1:${port}/metrics`);
    expect([response.status, response.headers.get('content-type')]).toEqual([
      200,
      'text/plain; version=0.0.4; charset=utf-8',
    ]);
  });

  it('is not the public port, and listens on no other address than METRICS_HOST', async () => {
    expect((await test.fetch('/metrics')).status).toBe(404);
    const socket = connect(port, '127.0.0.2');
    await expect(once(socket, 'connect')).rejects.toThrow(/ECONNREFUSED|EADDRNOTAVAIL/);
    expect(await isPortOpen(port)).toBe(true);
  });

  it('stops a start when it is in use, or is not of this machine, and says which setting to change', async () => {
    const metrics = { port: test.settings.port, host: '127.0.0.1' };
    for (const [wrong, message] of [
      [metrics, 'METRICS_PORT'],
      [{ port, host: '192.0.2.1' }, 'METRICS_HOST'],
    ] as const) {
      const app = await createApp({ ...test.settings, metrics: wrong }, createLogger('silent'));
      const start = app.init();
      await expect(start).rejects.toThrow(SettingsError);
      await expect(start).rejects.toThrow(message);
      await app.close();
    }
  });

  it('counts refused opens in phase 4, where a token is needed', async () => {
    await test.restart({ MIGRATION_PHASE: '4' });
    const path = `/storage/chat_images/appointment_${APPOINTMENT}/1600000000_OldPicture.jpg`;
    expect((await test.fetch(path)).status).toBe(401);
    await test.fetch(path, { headers: { authorization: 'Bearer wrong' } });
    await test.fetch('/api/chat-images/1', {});
    await expectValue('chat_images_opens_without_token_total', { phase: '4', result: 'refused' }, 1);
  });

  it('is closed without METRICS_PORT, and nothing is counted', async () => {
    await test.restart({ METRICS_PORT: '' });
    expect(test.settings.metrics).toBeUndefined();
    expect(test.app.get(METRICS)).toBeUndefined();
    expect(await isPortOpen(port)).toBe(false);
    expect((await upload(await picture('png'))).id).toBeGreaterThan(0);
  });
});
