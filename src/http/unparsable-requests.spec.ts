import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import type { ErrorBodyDto } from '../errors/error-body.dto.js';
import { createLogger } from '../observability/logger.js';
import { boundUnanswered, MAX_UNANSWERED } from './pipelined-requests.js';
import { RequestLog } from './request-log.js';
import { answerUnparsableRequests } from './unparsable-requests.js';

/** The time within which a request must arrive. */
const REQUEST_TIMEOUT_MS = 200;

/** This time is longer than Node needs to detect a request timeout. */
const SLOW_ANSWER_MS = 500;

const NONSENSE = 'NONSENSE\r\n\r\n';

const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`;

/** The head of a request with a body of ten bytes. */
const post = (path: string): string => `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n`;

/** The routes, which get requests whose head has arrived. */
const ROUTES: Readonly<Record<string, (request: IncomingMessage, response: ServerResponse) => unknown>> = {
  '/fast': (_, response) => response.end('fast'),
  '/slow': async (_, response) => {
    response.write('slow, ');
    await setTimeout(SLOW_ANSWER_MS);
    response.end('but whole');
  },
  '/begun': (request, response) => {
    request.resume();
    response.write('begun');
  },
  '/unanswered': (request) => request.resume(),
};

describe('a request that Node can not read', () => {
  let server: Server;
  let log: RequestLog;
  let logged: Record<string, unknown>[];
  /** The requests whose responses were closed. */
  let closed: (string | undefined)[];

  beforeEach(async () => {
    logged = [];
    closed = [];
    server = createServer(
      { connectionsCheckingInterval: 20 },
      boundUnanswered((request, response) => {
        response.on('close', () => closed.push(request.url));
        ROUTES[request.url ?? '']?.(request, response);
      }),
    );
    server.headersTimeout = server.requestTimeout = REQUEST_TIMEOUT_MS;
    const destination = { write: (line: string) => void logged.push(JSON.parse(line) as (typeof logged)[0]) };
    log = new RequestLog(createLogger('info', { destination }));
    answerUnparsableRequests(server, log);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });

  afterEach(() => {
    server.closeAllConnections();
    server.close();
    log.onApplicationShutdown();
  });

  function send(bytes: string): Socket {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    socket.write(bytes);
    return socket;
  }

  /** All bytes that the server writes until it closes the connection. */
  const answersTo = (bytes: string): Promise<string> => text(send(bytes));

  function expectRefusal(answer: string, status: number, code: string): void {
    const [head = '', body = ''] = answer.split('\r\n\r\n');
    expect(head).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(head).toContain('\r\nConnection: close');
    const { error_code: errorCode, request_id: requestId } = JSON.parse(body) as ErrorBodyDto;
    expect(errorCode).toBe(code);
    expect(logged).toContainEqual(expect.objectContaining({ requestId, status, route: 'none' }));
  }

  it.each([
    ['bytes that are not HTTP', NONSENSE, 400, 'MALFORMED_REQUEST'],
    ['headers over the limit', get(`/?${'a'.repeat(20_000)}`), 431, 'HEADERS_TOO_LARGE'],
    ['a connection without a request', '', 408, 'REQUEST_TIMEOUT'],
    ['an incomplete head', get('/fast').slice(0, -2), 408, 'REQUEST_TIMEOUT'],
    ['an incomplete body', post('/unanswered'), 408, 'REQUEST_TIMEOUT'],
    ['a broken body', `${chunked('/unanswered')}zz\r\n`, 400, 'MALFORMED_REQUEST'],
  ])('gets an error response: %s', async (_, bytes, status, code) => {
    expectRefusal(await answersTo(bytes), status, code);
  });

  it('gets an error response after a finished response', async () => {
    const socket = send(get('/fast'));
    const [first] = (await once(socket, 'data')) as [Buffer];
    expect(String(first)).toMatch(/fast/);
    socket.write(NONSENSE);
    expectRefusal(await text(socket), 400, 'MALFORMED_REQUEST');
  });

  it.each([
    ['bytes that are not HTTP', NONSENSE],
    ['headers over the limit', get(`/?${'a'.repeat(20_000)}`)],
    ['a head over the timeout', 'GET / HTTP/1.1\r\n'],
    ['a body over the timeout', post('/unanswered')],
    ['a broken body', `${chunked('/unanswered')}zz\r\n`],
  ])('does not corrupt the responses before it: %s', async (_, bytes) => {
    const answers = await answersTo(get('/slow').repeat(3) + bytes);
    expect(answers.match(/HTTP\/1\.1 \d+/g)).toEqual(Array(3).fill('HTTP/1.1 200'));
    expect(answers.match(/slow, \r\n9\r\nbut whole\r\n0\r\n\r\n/g)).toHaveLength(3);
    expect(answers).toMatch(/0\r\n\r\n$/);
  });

  it('waits also for the responses to requests that have not begun', async () => {
    const count = MAX_UNANSWERED + 4;
    const answers = await answersTo(get('/slow') + get('/fast').repeat(count - 1) + NONSENSE);
    expect(answers.match(/HTTP\/1\.1 \d+/g)).toEqual(Array(count).fill('HTTP/1.1 200'));
  });

  it.each([
    ['over the timeout', post('/begun')],
    ['broken', `${chunked('/begun')}zz\r\n`],
  ])('gets its response cut off, without an error inside, when it has begun: %s', async (_, bytes) => {
    expect(await answersTo(bytes)).toMatch(/^HTTP\/1\.1 200 OK\r\n[^{}]*\r\n\r\n5\r\nbegun\r\n$/);
  });

  it('is closed when its body exceeds the timeout', async () => {
    await answersTo(post('/unanswered'));
    expect(closed).toEqual(['/unanswered']);
  });
});

function chunked(path: string): string {
  return `POST ${path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n`;
}
