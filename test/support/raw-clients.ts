import { expect } from '@jest/globals';
import type { Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { UploadBudget } from '../../src/uploads/upload-budget.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { APPOINTMENT, type TestApp } from './test-app.js';

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

/** One connection, written to as a test likes. */
export class Client {
  readonly socket: Socket;
  error: Error | undefined;
  ended = false;
  private received = Buffer.alloc(0);

  constructor(private readonly test: TestApp) {
    this.socket = connect({ port: test.settings.port, host: '127.0.0.1', noDelay: true });
    this.socket.on('data', (chunk: Buffer) => (this.received = Buffer.concat([this.received, chunk])));
    this.socket.on('end', () => (this.ended = true));
    this.socket.on('close', () => (this.ended = true));
    this.socket.on('error', (error) => (this.error = error));
  }

  /** The head of a request, an upload when nothing else is said. */
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

  /** Resolves when the bytes have gone to the system, or can't any more. */
  async send(bytes: string | Uint8Array): Promise<void> {
    await new Promise<void>((resolve) => {
      this.socket.write(bytes, () => resolve());
    });
    await setImmediate();
  }

  /** A whole request and its answer. */
  async ask(head: Head, body: string | Uint8Array = ''): Promise<Answer> {
    const headers = [...(head.headers ?? []), ...(body.length > 0 ? [`Content-Length: ${body.length}`] : [])];
    await this.send(this.head({ ...head, headers }));
    await this.send(body);
    return this.answer();
  }

  /** The next answer, `100 Continue` too. */
  async answer(withinMs = 5000): Promise<Answer> {
    let answer: Answer | undefined;
    await eventually(
      () => {
        answer ??= this.take();
        return answer !== undefined || this.socket.destroyed;
      },
      'an answer',
      withinMs,
    );
    answer ??= this.take();
    if (!answer) throw new Error(`The connection ended without an answer: ${String(this.error)}`);
    return answer;
  }

  /** The next answer when it has arrived whole. */
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
    const status = Number(start.split(' ')[1]);
    const length = status === 100 ? '0' : headers.get('content-length');
    if (length === undefined) throw new Error(`An answer without a length: ${start}`);
    const bodyEnd = end + 4 + Number(length);
    if (this.received.length < bodyEnd) return undefined;
    const body = this.received.toString('utf8', end + 4, bodyEnd);
    this.received = this.received.subarray(bodyEnd);
    return { status, headers, body };
  }
}

export async function eventually(condition: () => boolean, what: string, withinMs = 5000): Promise<void> {
  for (const deadline = Date.now() + withinMs; !condition();) {
    if (Date.now() > deadline) throw new Error(`Waited ${withinMs} ms in vain for ${what}.`);
    await setTimeout(2);
  }
}

/** Holds a refusal against the envelope of the contract. */
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

/** The form as the app in the field sends it, with the file first. */
export const formFileFirst = (file: Uint8Array, appointment = APPOINTMENT): Buffer =>
  Buffer.concat([Buffer.from(FILE_HEAD), file, Buffer.from(`\r\n${field(appointment).trimEnd()}${END}`)]);

export const serverOf = (test: TestApp): Server => test.app.getHttpServer();
export const inUse = (test: TestApp): number => test.app.get(UploadBudget).inUse;

/** A test's connections, closed when it has ended, however it has. */
export class Clients {
  private readonly all: Client[] = [];

  connect(test: TestApp): Client {
    const client = new Client(test);
    this.all.push(client);
    return client;
  }

  /** Also from the server's side, so that a test that has failed does not spoil the next one. */
  async close(test: TestApp): Promise<void> {
    this.leave();
    serverOf(test).closeAllConnections();
    await eventually(() => inUse(test) === 0, 'the memory of uploads whose connections are closed');
  }

  leave(): void {
    for (const { socket } of this.all.splice(0)) socket.destroy();
  }
}
