import { expect } from '@jest/globals';
import type { Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { UploadBudget } from '../../src/uploads/upload-budget.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { eventually } from './eventually.js';
import { picture } from './pictures.js';
import { APPOINTMENT, PATIENT, type TestApp } from './test-app.js';

export const MIB = 1024 * 1024;

const field = (appointment: number): string =>
  `--b\r\nContent-Disposition: form-data; name="appointment_id"\r\n\r\n${appointment}\r\n`;
export const FIELD = field(APPOINTMENT);
export const FILE_HEAD =
  '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n';
export const END = '\r\n--b--\r\n';

export type Answer = {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
};

export type Head = {
  readonly method?: 'GET' | 'POST';
  readonly path?: string;
  readonly as?: number;
  readonly type?: string;
  readonly headers?: readonly string[];
};

/** A connection on which a test writes the bytes of HTTP itself. */
export class Client {
  readonly socket: Socket;
  error: Error | undefined;
  ended = false;
  private received = Buffer.alloc(0);

  /**
   * @param test signs the tokens
   * @param port of the server, by default the application of `test`
   */
  constructor(
    private readonly test: TestApp,
    port = test.settings.port,
  ) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.socket.on('data', (chunk: Buffer) => (this.received = Buffer.concat([this.received, chunk])));
    this.socket.on('end', () => (this.ended = true));
    this.socket.on('close', () => (this.ended = true));
    this.socket.on('error', (error) => (this.error = error));
  }

  /** Whether another request can be sent. */
  get open(): boolean {
    return !this.ended && this.socket.writable;
  }

  /** The head of a request, by default of an upload. */
  head({ method = 'POST', path = '/api/upload/chat-image', as, type, headers = [] }: Head): string {
    return [
      `${method} ${path} HTTP/1.1`,
      'Host: localhost',
      ...(as === undefined ? [] : [`Authorization: Bearer ${this.test.token(as)}`]),
      ...(method === 'GET' ? [] : [`Content-Type: ${type ?? 'multipart/form-data; boundary=b'}`]),
      ...headers,
      '',
      '',
    ].join('\r\n');
  }

  /** Resolves when the bytes were written, or can not be written any more. */
  async send(bytes: string | Uint8Array, withinMs = 60_000): Promise<void> {
    let gone = false;
    this.socket.write(bytes, () => (gone = true));
    await setImmediate();
    await eventually(() => gone, 'the server to read', withinMs);
  }

  /** Sends a whole request and returns its response. */
  async ask(head: Head, body: string | Uint8Array = ''): Promise<Answer> {
    const headers = [...(head.headers ?? []), ...(body.length > 0 ? [`Content-Length: ${body.length}`] : [])];
    await this.send(this.head({ ...head, headers }));
    await this.send(body);
    return this.answer();
  }

  /** The next response, which may be `100 Continue`. */
  async answer(withinMs = 5000): Promise<Answer> {
    const answer = await eventually(() => this.take() ?? (this.ended && 'none'), 'an answer', withinMs);
    if (answer === 'none') throw new Error(`The connection ended without an answer: ${String(this.error)}`);
    return answer;
  }

  /** All responses until the server closes the connection. Fails when it does not. */
  async answersUntilClosed(withinMs = 5000): Promise<Answer[]> {
    await eventually(() => this.ended, 'the end of the connection', withinMs);
    const answers: Answer[] = [];
    for (let answer = this.take(); answer; answer = this.take()) answers.push(answer);
    return answers;
  }

  /** The next response when it has arrived completely. */
  take(): Answer | undefined {
    const end = this.received.indexOf('\r\n\r\n');
    if (end === -1) return undefined;
    const [start = '', ...lines] = this.received.toString('latin1', 0, end).split('\r\n');
    const headers = new Map(
      lines.map((line) => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
      }),
    );
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(start)?.[1]);
    if (Number.isNaN(status)) throw new Error(`An answer that is no HTTP: ${start}`);
    const length = status === 100 ? '0' : headers.get('content-length');
    if (length === undefined) throw new Error(`An answer without a length: ${start}`);
    const bodyEnd = end + 4 + Number(length);
    if (this.received.length < bodyEnd) return undefined;
    const body = this.received.toString('utf8', end + 4, bodyEnd);
    this.received = this.received.subarray(bodyEnd);
    return { status, headers, body };
  }
}

/** Compares a refusal with the documented form. */
export function expectRefusal(answer: Answer, status: number, code: string): void {
  const { error_code, message, request_id, success } = JSON.parse(answer.body) as ErrorBodyDto;
  expect([answer.status, error_code, success]).toEqual([status, code, false]);
  expect(answer.headers.get('content-type')).toMatch(/^application\/json/);
  expect(answer.headers.get('cache-control')).toBe('no-store');
  expect(answer.headers.get('x-request-id')).toBe(request_id);
  expect(message).toMatch(/^[A-Z].{5,100}[.]$/);
  if (status === 401) expect(answer.headers.get('www-authenticate')).toBe('Bearer');
  if ([429, 503].includes(status)) expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
}

/** The form of an upload, with the appointment before the file. */
export const form = (file: Uint8Array, appointment = APPOINTMENT): Buffer =>
  Buffer.concat([Buffer.from(field(appointment) + FILE_HEAD), file, Buffer.from(END)]);

/** The form of an upload as the app sends it, with the file first. */
export const formFileFirst = (file: Uint8Array, appointment = APPOINTMENT): Buffer =>
  Buffer.concat([Buffer.from(FILE_HEAD), file, Buffer.from(`\r\n${field(appointment).trimEnd()}${END}`)]);

/** A piece of a body with `Transfer-Encoding: chunked`. */
export const chunk = (bytes: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);

/** Begins an upload. Resolves when the server waits for the rest of its body, to a function that sends it. */
export async function beginUpload(client: Client): Promise<() => Promise<void>> {
  const body = formFileFirst(await picture('png'));
  const headers = [`Content-Length: ${body.length}`, 'Expect: 100-continue'];
  await client.send(client.head({ as: PATIENT, headers }));
  expect((await client.answer(60_000)).status).toBe(100);
  await client.send(body.subarray(0, 200));
  return () => client.send(body.subarray(200));
}

export const serverOf = (test: TestApp): Server => test.app.getHttpServer();
export const inUse = (test: TestApp): number => test.app.get(UploadBudget).inUse;

/** The connections of a test, which are closed when the test has ended. */
export class Clients {
  private readonly all: Client[] = [];

  connect(test: TestApp, port?: number): Client {
    const client = new Client(test, port);
    this.all.push(client);
    return client;
  }

  /** Closes also on the server, so that a failed test does not disturb the next test. */
  async close(test: TestApp): Promise<void> {
    this.leave();
    serverOf(test).closeAllConnections();
    await eventually(() => inUse(test) === 0, 'the memory of uploads whose connections are closed');
  }

  leave(): void {
    for (const { socket } of this.all.splice(0)) socket.destroy();
  }
}
