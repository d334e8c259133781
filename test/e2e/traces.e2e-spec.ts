import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { SignedUrlResponseDto } from '../../src/chat-images/dto/signed-url.dto.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { MAX_UNANSWERED } from '../../src/http/pipelined-requests.js';
import { LINES_PER_PERIOD } from '../../src/observability/flood-summary.js';
import { eventually } from '../support/eventually.js';
import { OtlpReceiver, type ReceivedSpan } from '../support/otlp-receiver.js';
import { phonePhoto, picture } from '../support/pictures.js';
import { Clients, form } from '../support/raw-clients.js';
import { RunningProcess } from '../support/run-process.js';
import { refusal, S3Answers } from '../support/s3-answers.js';
import {
  APPOINTMENT,
  DOCTOR,
  JWT_SECRET,
  OUTSIDER,
  PATIENT,
  TEST_ENVIRONMENT,
  TestApp,
} from '../support/test-app.js';

const UPLOAD = '/api/upload/chat-image';
const SIGNED_URL = '/api/chat-images/:id/signed-url';
const PARENT = '00f067aa0ba902b7';
const FILE_NAME = 'rash-of-a-person.jpg';

type Line = Readonly<Record<string, unknown>>;
type Trace = { readonly id: string; readonly headers: Record<string, string> };

let answers: S3Answers;
let test: TestApp;

beforeAll(async () => {
  answers = await S3Answers.start();
  test = await TestApp.start({
    ...answers.environment,
    SIGNED_URL_WINDOW_SECONDS: '1800',
    SWEEP_INTERVAL_SECONDS: '0',
  });
});

afterEach(() => answers.answerWith());

afterAll(async () => {
  await test.stop();
  answers.stop();
});

function newTrace(flags = '01'): Trace {
  const id = randomBytes(16).toString('hex');
  return { id, headers: { traceparent: `00-${id}-${PARENT}-${flags}`, tracestate: 'vendor=state' } };
}

/** Sends an upload. @param url of the service */
async function upload(
  bytes: Buffer,
  headers: Record<string, string> = {},
  { url = test.url, as = PATIENT }: { url?: string; as?: number } = {},
): Promise<Response> {
  const body = new FormData();
  body.append('file', new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }), FILE_NAME);
  body.append('appointment_id', String(APPOINTMENT));
  return fetch(`${url}${UPLOAD}`, {
    method: 'POST',
    body,
    headers: { authorization: `Bearer ${test.token(as)}`, ...headers },
  });
}

const uploadedOf = async (response: Response): Promise<UploadedChatImageResponseDto['data']> =>
  ((await response.json()) as UploadedChatImageResponseDto).data;

const linesOf = (output: string): Line[] =>
  output
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Line);

describe('without an SDK', () => {
  const clients = new Clients();

  beforeEach(() => {
    test.logLines.length = 0;
  });

  afterEach(() => clients.close(test));

  const lines = (): Line[] => linesOf(test.logLines.join('\n'));

  const lineOf = ({ headers }: Response): Promise<Line> =>
    eventually(
      () =>
        lines().find(({ requestId, msg }) => requestId === headers.get('x-request-id') && msg === 'request'),
      'the line of the request',
    );

  it('a trace that comes in goes on to the storage, and the next request has none', async () => {
    const { id, headers } = newTrace();
    const response = await upload(await picture('png'), headers);
    expect(await lineOf(response)).toMatchObject({ traceId: id, status: 200 });
    const puts = answers.requests.filter(({ method }) => method === 'PUT');
    expect(puts.map(({ headers: { traceparent, tracestate } }) => ({ traceparent, tracestate }))).toEqual([
      headers,
      headers,
    ]);
    // A proxy may add its own part to the trace.
    for (const put of puts) expect(put.headers.authorization).not.toContain('trace');
    answers.answerWith();
    const next = await upload(await picture('png'));
    expect(await lineOf(next)).not.toHaveProperty('traceId');
    expect(answers.requests).toHaveLength(2);
    for (const put of answers.requests) expect(put.headers).not.toHaveProperty('traceparent');
  });

  it('a flag that says "not sampled" goes on too', async () => {
    const { headers } = newTrace('00');
    await upload(await picture('png'), headers);
    expect(answers.requests.map((put) => put.headers.traceparent)).toEqual([
      headers.traceparent,
      headers.traceparent,
    ]);
  });

  it('a malformed traceparent is ignored, and the request is answered', async () => {
    const traceparent = `00-${'0'.repeat(32)}-${PARENT}-01`;
    const response = await upload(await picture('png'), { traceparent });
    expect(response.status).toBe(200);
    expect(await lineOf(response)).not.toHaveProperty('traceId');
  });

  it('each line of a request has its trace: of the storage, of the database, and of the failure', async () => {
    const { id, headers } = newTrace();
    answers.answerWith(refusal(500, 'InternalError'));
    // The row can't be abandoned either.
    await test.database.query(
      `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
       CREATE TRIGGER refuse BEFORE UPDATE ON chat_images FOR EACH ROW EXECUTE FUNCTION refuse()`,
    );
    const response = await upload(await picture('png'), headers);
    await test.database.query('DROP FUNCTION refuse CASCADE');
    expect(response.status).toBe(503);
    await lineOf(response);
    expect(lines().map(({ msg, traceId }) => [msg, traceId])).toEqual([
      [expect.stringMatching(/^the upload .* stays pending/), id],
      ['failure', id],
      ['request', id],
    ]);
  });

  it('a line of the decision on an upload has the trace, although the form is read elsewhere', async () => {
    const { id, headers } = newTrace();
    const body = form(await picture('png'));
    const client = clients.connect(test);
    await test.database.query('ALTER TABLE users ADD COLUMN deleted_at timestamp');
    // The columns are looked up at the first request.
    await test.restart({});
    test.logLines.length = 0;
    const again = clients.connect(test);
    client.socket.destroy();
    await again.send(
      again.head({
        as: PATIENT,
        headers: [
          `Content-Length: ${body.length}`,
          'Expect: 100-continue',
          `traceparent: ${headers.traceparent ?? ''}`,
        ],
      }),
    );
    expect((await again.answer(60_000)).status).toBe(100);
    await test.database.query('ALTER TABLE users DROP COLUMN deleted_at');
    await again.send(body);
    expect((await again.answer(60_000)).status).toBe(200);
    expect(lines()).toContainEqual(
      expect.objectContaining({ msg: expect.stringContaining('looked up again'), traceId: id }),
    );
  });

  it('a signed URL is the same with and without a trace', async () => {
    const { id } = await uploadedOf(await upload(await picture('png')));
    const urlWith = async (headers: Record<string, string>): Promise<string> => {
      const response = await test.fetch(`/api/chat-images/${id}/signed-url`, { as: DOCTOR, headers });
      return ((await response.json()) as SignedUrlResponseDto).data.url;
    };
    expect(await urlWith(newTrace().headers)).toBe(await urlWith({}));
  });

  it('a pipelined request does not get the trace of the request before it', async () => {
    const client = clients.connect(test);
    const { id, headers } = newTrace();
    const head = (name: string, trace: readonly string[]): string =>
      client.head({
        method: 'GET',
        path: '/api/chat-images/999999/signed-url',
        as: DOCTOR,
        headers: [`X-Request-Id: ${name}`, ...trace],
      });
    // Those that wait begin when one before them ends. The log has the failures of the first of them.
    const traced = Array.from({ length: MAX_UNANSWERED }, (_, index) => `traced-${index}`);
    const plain = Array.from({ length: MAX_UNANSWERED }, (_, index) => `plain-${index}--`);
    await test.database.query('ALTER TABLE chat_images RENAME COLUMN state TO broken');
    client.socket.write(
      [
        ...traced.map((name) => head(name, [`traceparent: ${headers.traceparent ?? ''}`])),
        ...plain.map((name) => head(name, [])),
      ].join(''),
    );
    let answered = 0;
    await eventually(() => {
      while (client.take()) answered += 1;
      return answered === traced.length + plain.length;
    }, 'all answers');
    await test.database.query('ALTER TABLE chat_images RENAME COLUMN broken TO state');
    const failures = lines().filter(({ msg }) => msg === 'failure');
    const tracesOf = (names: readonly string[]): Set<unknown> =>
      new Set(
        failures.filter(({ requestId }) => names.includes(String(requestId))).map(({ traceId }) => traceId),
      );
    expect([...tracesOf(traced)]).toEqual([id]);
    expect([...tracesOf(plain)]).toEqual([undefined]);
  });

  it('a line about a connection has no trace, although a request has opened it', async () => {
    await test.restart({});
    const { id, headers } = newTrace();
    // Several at once, so that there are new connections.
    await Promise.all(
      Array.from({ length: 8 }, () => test.fetch('/api/chat-images/999999', { as: DOCTOR, headers })),
    );
    await test.database.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chat-image-store requests'`,
    );
    const lost = await eventually(
      () => lines().filter(({ msg }) => String(msg).includes('idle connection')),
      'the lines',
    );
    expect(lost.map(({ traceId }) => traceId)).toEqual(lost.map(() => undefined));
    expect(lines()).toContainEqual(expect.objectContaining({ traceId: id }));
  });

  it('a line about the leases of all uploads has no trace', async () => {
    await test.restart({ STORAGE_REQUEST_TIMEOUT_MS: '60000' });
    const held: ServerResponse[] = [];
    answers.answerWith((_, response) => void held.push(response));
    const first = upload(await picture('png'), newTrace().headers);
    await eventually(() => held.length === 2, 'the first upload');
    const second = upload(await picture('png'));
    await eventually(() => held.length === 4, 'the second upload');
    await test.database.query(
      `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
       CREATE TRIGGER refuse BEFORE UPDATE OF lease_until ON chat_images FOR EACH ROW
       WHEN (NEW.state = 'pending') EXECUTE FUNCTION refuse()`,
    );
    try {
      const line = await eventually(
        () => lines().find(({ msg }) => /leases of \d uploads/.test(String(msg))),
        'the line',
      );
      expect(line).not.toHaveProperty('traceId');
    } finally {
      await test.database.query('DROP FUNCTION refuse CASCADE');
      answers.answerWith();
      for (const response of held) response.end();
      await Promise.all([first, second]);
      await test.restart(answers.environment);
    }
  });

  it('a summary of many requests has no trace', async () => {
    const { headers } = newTrace();
    for (let sent = 0; sent < LINES_PER_PERIOD + 5; sent += 1)
      await (await test.fetch('/nothing', { headers })).arrayBuffer();
    const summary = await eventually(
      () => lines().find(({ msg }) => msg === 'more of the same was left out'),
      'the summary',
    );
    expect(summary).not.toHaveProperty('traceId');
  });
});

describe('with the SDK', () => {
  let receiver: OtlpReceiver;
  let child: RunningProcess;
  let url: string;

  beforeEach(async () => {
    receiver = await OtlpReceiver.start();
  });

  afterEach(async () => {
    child.signal('SIGKILL');
    await child.exit;
    await receiver.stop();
  });

  const wrapper = [process.execPath, '--import', resolve('dist/tracing.js')];

  async function start(environment: NodeJS.ProcessEnv = {}): Promise<void> {
    const port = await freePort();
    url = `http://127.0.0.1:${port}`;
    child = new RunningProcess(['main.js'], {
      wrapper,
      cwd: tmpdir(),
      env: {
        ...TEST_ENVIRONMENT,
        ...answers.environment,
        PORT: String(port),
        APP_URL: url,
        DATABASE_URL: test.settings.database.url,
        SWEEP_INTERVAL_SECONDS: '0',
        OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url,
        OTEL_SERVICE_NAME: 'pictures',
        OTEL_BSP_SCHEDULE_DELAY: '50',
        ...environment,
      },
    });
    await child.printed(/"listening"/);
  }

  const get = (path: string, headers: Record<string, string> = {}, as = DOCTOR): Promise<Response> =>
    fetch(`${url}${path}`, { headers: { authorization: `Bearer ${test.token(as)}`, ...headers } });

  const lineOf = ({ headers }: Response): Promise<Line> =>
    eventually(
      () =>
        linesOf(child.output).find(
          ({ requestId, msg }) => requestId === headers.get('x-request-id') && msg === 'request',
        ),
      'the line of the request',
    );

  /** The spans as a tree: names, with the names of the parents. */
  function treeOf(spans: readonly ReceivedSpan[]): readonly string[] {
    const byId = new Map(spans.map((span) => [span.spanId, span]));
    const pathOf = ({ name, parentSpanId }: ReceivedSpan): string => {
      const parent = byId.get(parentSpanId ?? '');
      return parent ? `${pathOf(parent)} > ${name}` : name;
    };
    return [...spans].sort((a, b) => a.startMs - b.startMs).map(pathOf);
  }

  const named = (spans: readonly ReceivedSpan[], name: string): ReceivedSpan => {
    const found = spans.find((span) => span.name === name);
    if (!found) throw new Error(`No span ${name}.`);
    return found;
  };

  it('an upload has the spans of its stages, in the trace that came in', async () => {
    await start();
    const { id, headers } = newTrace();
    const photo = await phonePhoto();
    answers.answerWith();
    const response = await upload(photo, headers, { url });
    const { data } = (await response.json()) as UploadedChatImageResponseDto;
    const spans = await receiver.trace(id);
    const root = `POST ${UPLOAD}`;
    expect([...treeOf(spans)].sort()).toEqual(
      [
        root,
        `${root} > claim`,
        `${root} > commit`,
        `${root} > decide`,
        `${root} > decide > receive`,
        `${root} > decode`,
        `${root} > decode > clean`,
        `${root} > put`,
      ].sort(),
    );
    const request = named(spans, root);
    expect(request).toMatchObject({
      parentSpanId: PARENT,
      kind: 2,
      status: 0,
      attributes: {
        'http.request.method': 'POST',
        'http.route': UPLOAD,
        'http.response.status_code': 200,
      },
      resource: { 'service.name': 'pictures' },
    });
    const inOrder = ['decide', 'decode', 'claim', 'put', 'commit'].map((name) => named(spans, name));
    for (const [index, span] of inOrder.entries()) {
      expect(span.kind).toBe(1);
      expect(span.startMs).toBeGreaterThanOrEqual((inOrder[index - 1] ?? request).startMs);
      expect(span.endMs).toBeLessThanOrEqual(request.endMs);
    }
    expect(named(spans, 'clean').endMs).toBeLessThanOrEqual(named(spans, 'decode').endMs);
    expect(named(spans, 'receive').attributes).toEqual({ 'chat_images.bytes': photo.length });
    expect(named(spans, 'decode').attributes).toEqual({
      'chat_images.bytes': photo.length,
      'chat_images.format': 'jpeg',
    });
    // The storage's part of the trace belongs to the put.
    const put = named(spans, 'put');
    for (const { headers: sent } of answers.requests.filter(({ method }) => method === 'PUT'))
      expect(sent).toMatchObject({
        traceparent: `00-${id}-${put.spanId}-01`,
        tracestate: headers.tracestate,
      });
    expect(await lineOf(response)).toMatchObject({ traceId: id });
    const signed = newTrace();
    await get(`/api/chat-images/${data.id}/signed-url`, signed.headers);
    expect(treeOf(await receiver.trace(signed.id))).toEqual([
      `GET ${SIGNED_URL}`,
      `GET ${SIGNED_URL} > decide`,
    ]);
  });

  it('nothing secret or personal is exported', async () => {
    await start();
    const token = test.token(PATIENT);
    const { id, headers } = newTrace();
    const response = await upload(await phonePhoto(), headers, { url });
    const data = await uploadedOf(response);
    const { headers: more } = newTrace();
    await get(`/api/chat-images/${data.id}/signed-url?token=${token}`, more);
    const last = newTrace();
    await fetch(data.media_url.replace(/^https?:\/\/[^/]+/, url), {
      redirect: 'manual',
      headers: { authorization: `Bearer ${token}`, ...last.headers },
    });
    await receiver.trace(id);
    await receiver.trace(last.id);
    const exported = receiver.bodies.join('\n');
    const [row] = await test.database.query<{ filename: string; sha256_stored: string }[]>(
      'SELECT filename, sha256_stored FROM chat_images WHERE id = $1',
      [data.id],
    );
    for (const secret of [
      token,
      JWT_SECRET,
      'the-access-key',
      'the-secret-of-the-key',
      FILE_NAME,
      row?.filename ?? '',
      row?.sha256_stored ?? '',
      `appointment_${APPOINTMENT}`,
      'X-Amz',
      'Signature',
      '127.0.0.1',
      hostname(),
      process.cwd(),
    ])
      expect([secret, exported.includes(secret)]).toEqual([secret, false]);
    const names = new Set(receiver.spans.flatMap(({ attributes }) => Object.keys(attributes)));
    expect([...names].sort()).toEqual([
      'chat_images.bytes',
      'chat_images.format',
      'http.request.method',
      'http.response.status_code',
      'http.route',
    ]);
    const [{ resource } = { resource: {} }] = receiver.spans;
    expect(Object.keys(resource).sort()).toEqual([
      'service.name',
      'telemetry.sdk.language',
      'telemetry.sdk.name',
      'telemetry.sdk.version',
    ]);
  });

  it('a refusal is no error, a failure of the service is one, and both have their code', async () => {
    await start();
    const { id } = await uploadedOf(await upload(await picture('png'), {}, { url }));
    const refused = newTrace();
    await get(`/api/chat-images/${id}/signed-url`, refused.headers, OUTSIDER);
    const refusedSpans = await receiver.trace(refused.id);
    expect(refusedSpans.map(({ status }) => status)).toEqual([0, 0]);
    expect(named(refusedSpans, `GET ${SIGNED_URL}`).attributes).toEqual({
      'http.request.method': 'GET',
      'http.route': SIGNED_URL,
      'http.response.status_code': 403,
      'chat_images.error_code': 'FORBIDDEN',
    });
    expect(named(refusedSpans, 'decide').attributes).toEqual({ 'chat_images.error_code': 'FORBIDDEN' });
    answers.answerWith(refusal(500, 'InternalError'));
    const failed = newTrace();
    await upload(await picture('png'), failed.headers, { url });
    const failedSpans = await receiver.trace(failed.id);
    expect(named(failedSpans, `POST ${UPLOAD}`)).toMatchObject({
      status: 2,
      attributes: {
        'http.response.status_code': 503,
        'chat_images.error_code': 'STORAGE_UNAVAILABLE',
        'error.type': 'STORAGE_UNAVAILABLE',
      },
    });
    expect(named(failedSpans, 'put')).toMatchObject({
      status: 2,
      attributes: { 'error.type': 'StorageUnavailableError' },
    });
    const nothing = newTrace();
    await fetch(`${url}/nothing`, { method: 'PROPFIND', headers: nothing.headers });
    expect(await receiver.trace(nothing.id)).toMatchObject([
      {
        name: 'HTTP',
        attributes: {
          'http.request.method': '_OTHER',
          'http.response.status_code': 404,
          'chat_images.error_code': 'NOT_FOUND',
        },
      },
    ]);
  });

  it('a request without a traceparent begins a trace, which stands in its line', async () => {
    await start();
    const { traceId } = await lineOf(await get('/api/health'));
    expect(await receiver.trace(String(traceId))).toMatchObject([
      { name: 'GET /api/health', parentSpanId: undefined },
    ]);
  });

  it('sampling follows the variables and the flag that came in', async () => {
    await start({ OTEL_TRACES_SAMPLER: 'parentbased_always_off' });
    const sampled = newTrace();
    const unsampled = newTrace('00');
    const own = await lineOf(await get('/api/health'));
    expect(await lineOf(await get('/api/health', unsampled.headers))).toMatchObject({
      traceId: unsampled.id,
    });
    await get('/api/health', sampled.headers);
    await receiver.trace(sampled.id);
    expect(own.traceId).toMatch(/^[\da-f]{32}$/);
    expect(receiver.spans.map(({ traceId }) => traceId)).toEqual([sampled.id]);
  });

  it('a collector that is away harms no request, and leaves one line, and one when it is back', async () => {
    receiver.refuse = (response) => void response.writeHead(400).end('no');
    await start();
    const exports = (): number => receiver.bodies.length;
    for (let round = 1; round <= 5; round += 1) {
      const before = exports();
      expect((await get('/api/health')).status).toBe(200);
      await eventually(() => exports() > before, 'an export');
    }
    receiver.refuse = (response) => void response.destroy();
    expect((await upload(await picture('png'), {}, { url })).status).toBe(200);
    await child.printed(/spans are lost/);
    receiver.refuse = undefined;
    await eventually(async () => {
      await get('/api/health');
      return child.output.includes('takes spans again');
    }, 'the line that says so');
    const told = linesOf(child.output).filter(({ msg }) => String(msg).includes('spans'));
    expect(told).toEqual([
      expect.objectContaining({ level: 'warn', reason: 'Bad Request' }),
      expect.objectContaining({ level: 'info', msg: 'the collector takes spans again' }),
    ]);
    // Spans are sent within whichever request ends last.
    for (const line of told) expect(line).not.toHaveProperty('traceId');
  });

  it('spans that wait are sent at SIGTERM', async () => {
    await start({ OTEL_BSP_SCHEDULE_DELAY: '600000' });
    const { id, headers } = newTrace();
    await get('/api/health', headers);
    child.signal('SIGTERM');
    expect(await child.exit).toBe(0);
    expect(receiver.spans.map(({ traceId }) => traceId)).toEqual([id]);
  });

  it('a collector that does not answer does not hold up the end', async () => {
    receiver.refuse = () => undefined;
    // The exporter would wait for 10 seconds. The process exits with 1 when it is not stopped in time.
    await start({ OTEL_BSP_SCHEDULE_DELAY: '600000', SHUTDOWN_TIMEOUT_MS: '5000' });
    await get('/api/health');
    child.signal('SIGTERM');
    expect(await child.exit).toBe(0);
    expect(receiver.bodies).toHaveLength(1);
  });

  it('OTEL_SDK_DISABLED switches it off', async () => {
    await start({ OTEL_SDK_DISABLED: 'true' });
    expect(await lineOf(await get('/api/health'))).not.toHaveProperty('traceId');
  });
});

describe('a start with tracing', () => {
  const run = async (
    program: string,
    environment: NodeJS.ProcessEnv = {},
  ): Promise<[number | null, string]> => {
    const child = new RunningProcess(['main.js'], {
      wrapper: [process.execPath, '--import', program],
      cwd: tmpdir(),
      env: environment,
    });
    const code = await child.exit;
    return [code, child.output];
  };

  it.each(['grpc', 'http/protobuf'])('ends with a sentence for the protocol %s', async (protocol) => {
    expect(await run(resolve('dist/tracing.js'), { OTEL_EXPORTER_OTLP_PROTOCOL: protocol })).toEqual([
      1,
      'OTEL_EXPORTER_OTLP_PROTOCOL must be http/json: collectors take it on the same port as http/protobuf.\n',
    ]);
  });

  it('ends with a sentence where the optional packages are not installed', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-store-tracing-'));
    try {
      await cp('dist', join(folder, 'dist'), { recursive: true });
      await cp('package.json', join(folder, 'package.json'));
      const scope = '@opentelemetry';
      await mkdir(join(folder, 'node_modules', scope), { recursive: true });
      const installed = [
        ...(await readdir('node_modules')).filter((name) => name !== scope),
        join(scope, 'api'),
        join(scope, 'context-async-hooks'),
      ];
      for (const name of installed)
        await symlink(resolve('node_modules', name), join(folder, 'node_modules', name));
      expect(await run(join(folder, 'dist', 'tracing.js'))).toEqual([
        1,
        'Tracing needs the optional packages @opentelemetry/…: install them with `npm ci` without `--omit=optional`, or start without `--import ./dist/tracing.js`.\n',
      ]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
