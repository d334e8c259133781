import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, request as httpRequest, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { UploadBudget } from '../../src/uploads/upload-budget.js';
import { MAX_FILE_BYTES } from '../../src/uploads/upload-form.js';
import { freePort } from '../../src/database/embedded-postgres.js';
import { hasNginx, NginxServer, SITE_FILE } from '../support/nginx-server.js';
import { picture } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, PATIENT, TestApp } from '../support/test-app.js';

const MIB = 1024 * 1024;
const UPLOAD = '/api/upload/chat-image';
const FILE_HEAD = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n';
const FILE_END = `\r\n--b\r\nContent-Disposition: form-data; name="appointment_id"\r\n\r\n${APPOINTMENT}\r\n--b--\r\n`;

const withNginx = hasNginx() ? describe : describe.skip;

withNginx(`${SITE_FILE}, in front of both backends`, () => {
  let test: TestApp;
  let main: Server;
  let nginx: NginxServer;

  beforeAll(async () => {
    test = await TestApp.start({
      TRUST_PROXY: '1',
      UPLOAD_MEMORY_MIB: '128',
      UPLOAD_WAIT_MS: '6000',
      RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '40',
    });
    main = await startMainApplication();
    nginx = await NginxServer.start({ chatImages: test.settings.port, mainApplication: portOf(main) });
  });

  afterAll(async () => {
    await nginx.stop();
    main.close();
    await test.stop();
  });

  const through = (path: string, init: RequestInit & { as?: number } = {}): Promise<Response> => {
    const { as, headers, ...rest } = init;
    const sent = new Headers(headers);
    if (as !== undefined) sent.set('authorization', `Bearer ${test.token(as)}`);
    return fetch(`${nginx.url}${path}`, { redirect: 'manual', ...rest, headers: sent });
  };

  const formOf = (bytes: Uint8Array): FormData => {
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }), 'photo.jpg');
    form.append('appointment_id', String(APPOINTMENT));
    return form;
  };

  it.each([
    ['POST', UPLOAD],
    ['GET', '/api/chat-images/1/signed-url'],
    ['GET', '/api/chat-images/1'],
    ['GET', '/api/chat-images/1762379401_YoxmX4UUfE.jpg/signed-url'],
    ['POST', '/api/chat-images/signed-urls'],
    ['GET', '/api/appointments/145/chat-images?limit=1'],
    ['GET', '/storage/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg'],
    ['GET', '/api/images/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg'],
  ])('sends %s %s to the image store', async (method, path) => {
    const answer = await through(path, { method });
    expect([answer.status, await answer.json()]).toEqual([
      401,
      expect.objectContaining({ error_code: 'UNAUTHENTICATED' }),
    ]);
  });

  it.each([
    '/',
    '/api/health',
    '/api/health/ready',
    '/api/upload/voice-message',
    '/api/upload/chat-image-of-theirs',
    '/api/upload/document',
    '/api/appointments',
    '/api/appointments/145',
    '/api/appointments/145/chat-images/theirs',
    '/api/appointments/145/messages',
    '/api/docs',
    '/storage/profile_pictures/7.jpg',
    '/storage/chat_images_of_theirs/7.jpg',
    '/storage/voice_messages/7.m4a',
    '/api/images/profile_pictures/7.jpg',
    '/api/images/7',
  ])('leaves %s with the main application', async (path) => {
    const answer = await through(`${path}?a=b`, { method: 'POST', body: 'theirs' });
    expect(await answer.json()).toEqual({ main: `POST ${path}?a=b theirs` });
  });

  it('has a path of its own for a monitor, beside the health of the main application', async () => {
    const answer = await through('/api/chat-images/health');
    expect([answer.status, await answer.json()]).toEqual([
      200,
      expect.objectContaining({ status: 'ok', message: 'The image store is running.' }),
    ]);
  });

  it('keeps pictures from a location of the site that is for files by their extension', async () => {
    const files = 'location ~* \\.(jpg|png)$ { return 418; }';
    const withFiles = await NginxServer.start(
      { chatImages: test.settings.port, mainApplication: portOf(main) },
      (site) => site.replace('# ---- chat images ', `${files}\n# ---- chat images `),
    );
    try {
      const status = async (path: string): Promise<number> => (await fetch(`${withFiles.url}${path}`)).status;
      expect(await status('/logo.jpg')).toBe(418);
      expect(await status('/storage/chat_images/appointment_145/a.jpg')).toBe(401);
      expect(await status('/api/images/chat_images/appointment_145/a.jpg')).toBe(401);
    } finally {
      await withFiles.stop();
    }
  });

  it('sends the Swagger page to the image store where its lines are taken in', async () => {
    const lines = /^ *# (location ~ \^\/api\/docs.*)\n *# ( *try_files.*)\n *# (\})$/m;
    const withPage = await NginxServer.start(
      { chatImages: test.settings.port, mainApplication: portOf(main) },
      (site) => site.replace(lines, '$1\n$2\n$3'),
    );
    try {
      for (const path of ['/api/docs', '/api/docs-json', '/api/docs/swagger-ui-init.js'])
        expect([path, (await fetch(`${withPage.url}${path}`)).status]).toEqual([path, 200]);
      expect(await (await fetch(`${withPage.url}/api/docs-of-theirs`)).json()).toHaveProperty('main');
    } finally {
      await withPage.stop();
    }
  });

  it('lets a picture of exactly 10 MiB through', async () => {
    const bytes = await pictureOf(MAX_FILE_BYTES);
    const answer = await through(UPLOAD, { method: 'POST', body: formOf(bytes), as: PATIENT });
    expect([answer.status, await answer.json()]).toEqual([200, expect.objectContaining({ success: true })]);
  });

  it('lets 11 MiB through to the image store, whose refusal reaches a client that looks only after sending', async () => {
    const answer = await through(UPLOAD, {
      method: 'POST',
      body: formOf(Buffer.alloc(11 * MIB)),
      as: PATIENT,
    });
    expect([answer.status, await answer.json()]).toEqual([
      413,
      expect.objectContaining({ success: false, error_code: 'FILE_TOO_LARGE' }),
    ]);
    // nginx closes its connection as soon as it has the answer; in the log that is a refusal, not a client that left.
    const id = answer.headers.get('x-request-id') ?? 'none';
    await until(() => test.logLines.some((line) => line.includes(id)));
    expect(test.logLines.filter((line) => line.includes(id))).toEqual([
      expect.stringMatching(/"status":413/),
    ]);
  });

  it('lets a JSON body of any size through to the image store', async () => {
    const answer = await through('/api/chat-images/signed-urls', {
      method: 'POST',
      body: `{"ids":[${'1,'.repeat(MIB)}1]}`,
      headers: { 'content-type': 'application/json' },
      as: PATIENT,
    });
    expect([answer.status, await answer.json()]).toEqual([
      413,
      expect.objectContaining({ error_code: 'FILE_TOO_LARGE' }),
    ]);
  });

  it.each([
    ['401, before more than the beginning was sent', undefined, 9 * MIB, MIB, 401, 'UNAUTHENTICATED'],
    ['413, before more than the beginning was sent', PATIENT, 11 * MIB, MIB, 413, 'FILE_TOO_LARGE'],
    ['413, of a body without a length', PATIENT, 'chunked', 11 * MIB, 413, 'FILE_TOO_LARGE'],
  ] as const)(
    'carries a refusal to the client during the upload: %s',
    async (_, as, length, sent, status, code) => {
      const client = new Client(nginx.port);
      client.send(test, { as, length });
      client.write(Buffer.alloc(sent), length === 'chunked');
      await client.received(/"request_id"/);
      expect(client.text).toMatch(new RegExp(`^HTTP/1\\.1 ${status} .*"error_code":"${code}"`, 's'));
      client.socket.destroy();
    },
  );

  it('carries a refusal to a client with a slow line, which looks at the answer when it has sent everything', async () => {
    const client = new Client(nginx.port);
    client.socket.pause();
    client.send(test, { length: 10 * MIB });
    for (let sent = 0; sent < 10 * MIB; sent += MIB) {
      client.write(Buffer.alloc(MIB));
      await setTimeout(700);
    }
    client.socket.resume();
    await client.received(/"request_id"/);
    expect(client.text).toMatch(/^HTTP\/1\.1 401 .*"error_code":"UNAUTHENTICATED"/s);
    expect(client.error).toBeUndefined();
    client.socket.destroy();
  });

  it("tells the image store the client's address, whatever the client says that it is", async () => {
    const statusOf = (localAddress: string, spoofed: string): Promise<number | undefined> =>
      new Promise((resolve, reject) => {
        const path = '/api/chat-images/1/signed-url';
        const headers = { 'X-Forwarded-For': spoofed, 'X-Real-IP': spoofed, Forwarded: `for=${spoofed}` };
        httpRequest({ port: nginx.port, host: '127.0.0.1', localAddress, path, headers }, (answer) => {
          answer.resume();
          resolve(answer.statusCode);
        })
          .on('error', reject)
          .end();
      });
    // Each address may fail 40 times; another name every time does not help.
    const answers: (number | undefined)[] = [];
    for (let index = 0; index < 41; index += 1) answers.push(await statusOf('127.0.0.9', `10.0.0.${index}`));
    expect(answers).toEqual([...Array<number>(40).fill(401), 429]);
    // And nobody else pays for it, not even whom that client has named.
    expect(await statusOf('127.0.0.10', '127.0.0.9')).toBe(401);
  });

  it('keeps nothing of an upload on its disk, and lets the memory budget make uploads wait at their clients', async () => {
    const budget = test.app.get(UploadBudget);
    const photo = await pictureOf(9 * MIB);
    const length = FILE_HEAD.length + photo.length + FILE_END.length;
    const begun: Client[] = [];
    // One after the other: of two that fill the memory together, one would wait for the other.
    for (const as of [PATIENT, DOCTOR]) {
      const before = budget.inUse;
      const client = new Client(nginx.port);
      client.send(test, { as, length });
      client.write(FILE_HEAD);
      client.write(photo.subarray(0, -1));
      begun.push(client);
      // All that was sent has gone through, although the upload has not ended.
      await until(() => budget.inUse > before + 5 * 8.9 * MIB);
    }
    expect(await nginx.temporaryFiles()).toEqual([]);

    const refused = new Client(nginx.port);
    refused.send(test, { as: await test.addPatient(), length });
    refused.write(FILE_HEAD);
    refused.write(photo.subarray(0, -1));
    await refused.received(/"request_id"/);
    expect(refused.text).toMatch(/^HTTP\/1\.1 503 .*\r\nRetry-After: \d+\r\n.*"error_code":"OVERLOADED"/s);
    expect(await nginx.temporaryFiles()).toEqual([]);
    refused.socket.destroy();

    for (const client of begun) {
      client.write(photo.subarray(-1));
      client.write(FILE_END);
    }
    for (const client of begun) {
      await client.received(/"request_id"|"success":true/);
      expect(client.text).toMatch(/^HTTP\/1\.1 200 .*"success":true/s);
      client.socket.destroy();
    }
    // nginx warns of each file that it makes for a body or an answer.
    expect(await nginx.errors()).not.toContain('temporary file');
  });

  it('tells a client that asks before it sends (`Expect: 100-continue`) to go on', async () => {
    const photo = await picture('jpeg');
    const client = new Client(nginx.port);
    client.send(test, {
      as: PATIENT,
      length: FILE_HEAD.length + photo.length + FILE_END.length,
      headers: ['Expect: 100-continue'],
    });
    await client.received(/^HTTP\/1\.1 100 Continue\r\n\r\n/);
    client.write(FILE_HEAD);
    client.write(photo);
    client.write(FILE_END);
    await client.received(/"success":true/);
    expect(client.text).toMatch(/\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
    client.socket.destroy();
  });

  it('keeps its connections to the image store', async () => {
    let connections = 0;
    const server: Server = test.app.getHttpServer();
    const count = (): void => void (connections += 1);
    server.on('connection', count);
    for (let index = 0; index < 20; index += 1)
      expect((await through('/api/chat-images/99999', { as: PATIENT })).status).toBe(404);
    server.off('connection', count);
    expect(connections).toBeLessThanOrEqual(1);
  });

  it("passes a client's own request id on, and gives one to a request without", async () => {
    const idOf = async (given: string | undefined): Promise<string> => {
      const headers = new Headers();
      if (given !== undefined) headers.set('x-request-id', given);
      const answer = await through('/api/chat-images/99999', { as: DOCTOR, headers });
      const { request_id } = (await answer.json()) as { request_id: string };
      expect(answer.headers.get('x-request-id')).toBe(request_id);
      return request_id;
    };
    expect(await idOf('phone-0123456789')).toBe('phone-0123456789');
    expect(await idOf(undefined)).toMatch(/^[0-9a-f]{32}$/);
    expect(await idOf('no id, "but" text')).toMatch(/^[0-9a-f]{32}$/);
    expect(test.logLines.some((line) => line.includes('"requestId":"phone-0123456789"'))).toBe(true);
  });

  it('waits longer than the image store, which so is the one that decides, and keeps connections shorter', () => {
    const site = readFileSync(SITE_FILE, 'utf8');
    const milliseconds = (name: string): number => {
      const [, seconds, ...others] = [...site.matchAll(new RegExp(`^ *${name} (\\d+)s;$`, 'gm'))].flat();
      expect([name, others]).toEqual([name, []]);
      return Number(seconds) * 1000;
    };
    const server: Server = test.app.getHttpServer();
    expect(milliseconds('proxy_read_timeout')).toBeGreaterThan(server.timeout);
    expect(milliseconds('proxy_send_timeout')).toBeGreaterThan(server.timeout);
    expect(milliseconds('client_body_timeout')).toBeGreaterThanOrEqual(server.timeout);
    expect(milliseconds('lingering_time')).toBeGreaterThanOrEqual(server.requestTimeout);
    expect(milliseconds('keepalive_timeout')).toBeLessThan(server.keepAliveTimeout);
  });

  it('answers in the form of the image store where that does not', async () => {
    const nobody = await NginxServer.start({
      chatImages: await freePort(),
      mainApplication: portOf(main),
    });
    try {
      const answer = await fetch(`${nobody.url}${UPLOAD}`, {
        method: 'POST',
        body: formOf(Buffer.alloc(MIB)),
        headers: { 'x-request-id': 'phone-0123456789' },
      });
      expect([answer.status, await answer.json()]).toEqual([
        503,
        {
          success: false,
          message: expect.any(String),
          error_code: 'OVERLOADED',
          request_id: 'phone-0123456789',
        },
      ]);
      expect(Object.fromEntries(answer.headers)).toMatchObject({
        'content-type': 'application/json; charset=utf-8',
        'cache-control': 'no-store',
        'retry-after': '5',
        'x-request-id': 'phone-0123456789',
      });
      expect(await (await fetch(`${nobody.url}/api/health`)).json()).toHaveProperty('main');
    } finally {
      await nobody.stop();
    }
  });
});

/** One connection, written to as a test likes. */
class Client {
  readonly socket: Socket;
  text = '';
  error: Error | undefined;

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.socket.on('data', (chunk: Buffer) => (this.text += chunk.toString()));
    this.socket.on('error', (error) => (this.error = error));
  }

  /** Sends the head of an upload. */
  send(
    test: TestApp,
    { as, length, headers = [] }: { as?: number | undefined; length: number | 'chunked'; headers?: string[] },
  ): void {
    this.socket.write(
      [
        `POST ${UPLOAD} HTTP/1.1`,
        'Host: api.example.com',
        ...(as === undefined ? [] : [`Authorization: Bearer ${test.token(as)}`]),
        'Content-Type: multipart/form-data; boundary=b',
        length === 'chunked' ? 'Transfer-Encoding: chunked' : `Content-Length: ${length}`,
        ...headers,
        '',
        '',
      ].join('\r\n'),
    );
  }

  write(bytes: Uint8Array | string, chunked = false): void {
    if (!chunked) {
      this.socket.write(bytes);
      return;
    }
    const body = Buffer.concat([Buffer.from(FILE_HEAD), Buffer.from(bytes)]);
    this.socket.write(`${body.length.toString(16)}\r\n`);
    this.socket.write(body);
    this.socket.write('\r\n');
  }

  received(pattern: RegExp): Promise<void> {
    return until(() => {
      if (this.error) throw this.error;
      return pattern.test(this.text);
    });
  }
}

/** A stand-in for the main application: it answers with what it got. */
async function startMainApplication(): Promise<Server> {
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => {
      const main = `${request.method ?? ''} ${request.url ?? ''} ${body}`.trim();
      response.setHeader('Content-Type', 'application/json').end(JSON.stringify({ main }));
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}

/** A picture of that many bytes, most of which lie behind its end. */
async function pictureOf(bytes: number): Promise<Buffer> {
  const photo = await picture('jpeg');
  return Buffer.concat([photo, Buffer.alloc(bytes - photo.length)]);
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('It did not come to that.');
    await setTimeout(20);
  }
}
