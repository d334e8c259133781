import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { MAX_FILE_BYTES } from '../../src/uploads/upload-limits.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { hasNginx, NginxServer, SITE_FILE } from '../support/nginx-server.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import {
  type Answer,
  chunk,
  Client,
  expectRefusal,
  FILE_HEAD,
  formFileFirst,
  inUse,
  MIB,
} from '../support/raw-clients.js';
import { APPOINTMENT, DOCTOR, PATIENT, TestApp } from '../support/test-app.js';

const UPLOAD = '/api/upload/chat-image';

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

  const clients: Client[] = [];

  afterEach(() => {
    for (const { socket } of clients.splice(0)) socket.destroy();
  });

  function connected(): Client {
    const client = new Client(test, nginx.port);
    clients.push(client);
    return client;
  }

  const uploadHead = (
    client: Client,
    { as, length, headers = [] }: { as?: number | undefined; length: number | 'chunked'; headers?: string[] },
  ): string =>
    client.head({
      ...(as === undefined ? {} : { as }),
      headers: [
        length === 'chunked' ? 'Transfer-Encoding: chunked' : `Content-Length: ${length}`,
        ...headers,
      ],
    });

  /** The next response, on a connection without errors. */
  async function answerOn(client: Client): Promise<Answer> {
    const answer = await client.answer(20_000);
    expect(client.error).toBeUndefined();
    return answer;
  }

  it.each([
    ['POST', UPLOAD],
    ['GET', '/api/chat-images/1/signed-url'],
    ['GET', '/api/chat-images/1'],
    ['GET', '/api/chat-images/1762379401_YoxmX4UUfE.jpg/signed-url'],
    ['POST', '/api/chat-images/signed-urls'],
    ['GET', '/api/appointments/145/chat-images?limit=1'],
    ['GET', '/api/text-sessions/147/chat-images?limit=1'],
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
    '/api/text-sessions/147',
    '/api/appointments/145/chat-images/theirs',
    '/api/appointments/145/messages',
    '/api/docs',
    '/storage/profile_pictures/7.jpg',
    '/storage/chat_images_of_theirs/7.jpg',
    '/storage/voice_messages/7.m4a',
    '/api/images/profile_pictures/7.jpg',
    '/api/images/7',
  ])('sends %s to the main application', async (path) => {
    const answer = await through(`${path}?a=b`, { method: 'POST', body: 'theirs' });
    expect(await answer.json()).toEqual({ main: `POST ${path}?a=b theirs` });
  });

  it('sends /api/chat-images/health to the health check of the image store', async () => {
    const answer = await through('/api/chat-images/health');
    expect([answer.status, await answer.json()]).toEqual([
      200,
      expect.objectContaining({ status: 'ok', message: 'The image store is running.' }),
    ]);
  });

  it('sends pictures to the image store despite a location for file extensions', async () => {
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

  it('sends the Swagger page to the image store when its lines are uncommented', async () => {
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

  it('passes a picture of exactly 10 MiB to the image store', async () => {
    const bytes = await pictureOf(MAX_FILE_BYTES);
    const answer = await through(UPLOAD, { method: 'POST', body: formOf(bytes), as: PATIENT });
    expect([answer.status, await answer.json()]).toEqual([200, expect.objectContaining({ success: true })]);
  });

  it('delivers 413 for 11 MiB to a client that reads only after sending', async () => {
    const answer = await through(UPLOAD, {
      method: 'POST',
      body: formOf(Buffer.alloc(11 * MIB)),
      as: PATIENT,
    });
    expect([answer.status, await answer.json()]).toEqual([
      413,
      expect.objectContaining({ success: false, error_code: 'FILE_TOO_LARGE' }),
    ]);
    // nginx closes its connection after the response, which the log must not call a disconnected client.
    const id = answer.headers.get('x-request-id') ?? 'none';
    await eventually(() => test.logLines.some((line) => line.includes(id)), 'the line of the refusal');
    expect(test.logLines.filter((line) => line.includes(id))).toEqual([
      expect.stringMatching(/"status":413/),
    ]);
  });

  it('passes a JSON body of any size to the image store', async () => {
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
    ['401, after the first MiB', undefined, 9 * MIB, MIB, 401, 'UNAUTHENTICATED'],
    ['413, after the first MiB', PATIENT, 11 * MIB, MIB, 413, 'FILE_TOO_LARGE'],
    ['413, for a body without a length', PATIENT, 'chunked', 11 * MIB, 413, 'FILE_TOO_LARGE'],
  ] as const)(
    'delivers a refusal to the client during the upload: %s',
    async (_, as, length, sent, status, code) => {
      const client = connected();
      const body = Buffer.concat([Buffer.from(FILE_HEAD), Buffer.alloc(sent)]);
      await client.send(uploadHead(client, { as, length }));
      // This does not wait, as nginx need not read after the refusal.
      client.socket.write(length === 'chunked' ? chunk(body) : body.subarray(FILE_HEAD.length));
      expectRefusal(await answerOn(client), status, code);
    },
  );

  it('delivers a refusal to a slow client that reads only after sending', async () => {
    const client = connected();
    client.socket.pause();
    await client.send(uploadHead(client, { length: 10 * MIB }));
    for (let sent = 0; sent < 10 * MIB; sent += MIB) {
      client.socket.write(Buffer.alloc(MIB));
      await setTimeout(700);
    }
    client.socket.resume();
    expectRefusal(await answerOn(client), 401, 'UNAUTHENTICATED');
    expect(client.error).toBeUndefined();
  });

  it("passes on the client's real address, not the address in its headers", async () => {
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
    // Each address may fail 40 times, whatever its headers say.
    const answers: (number | undefined)[] = [];
    for (let index = 0; index < 41; index += 1) answers.push(await statusOf('127.0.0.9', `10.0.0.${index}`));
    expect(answers).toEqual([...Array<number>(40).fill(401), 429]);
    // The address that the client has named is not limited.
    expect(await statusOf('127.0.0.10', '127.0.0.9')).toBe(401);
  });

  it('buffers no upload on disk, so that uploads without memory wait at the client', async () => {
    const body = formFileFirst(await pictureOf(9 * MIB));
    const lastByteOfFile = FILE_HEAD.length + 9 * MIB - 1;
    const begin = async (as: number): Promise<Client> => {
      const client = connected();
      await client.send(uploadHead(client, { as, length: body.length }));
      // This does not wait, as an upload without memory is not read.
      client.socket.write(body.subarray(0, lastByteOfFile));
      return client;
    };
    const begun: Client[] = [];
    // The uploads begin in turn, as two that start together would wait for each other.
    for (const as of [PATIENT, DOCTOR]) {
      const before = inUse(test);
      begun.push(await begin(as));
      // nginx has passed on all bytes before the upload has ended.
      await eventually(() => inUse(test) > before + 5 * 8.9 * MIB, 'all but the end of the upload');
    }
    expect(await nginx.temporaryFiles()).toEqual([]);

    const refused = await begin(await test.addPatient());
    expectRefusal(await answerOn(refused), 503, 'OVERLOADED');
    expect(await nginx.temporaryFiles()).toEqual([]);
    refused.socket.destroy();

    for (const client of begun) await client.send(body.subarray(lastByteOfFile));
    for (const client of begun) {
      const { status, body: answered } = await answerOn(client);
      expect([status, answered]).toEqual([200, expect.stringContaining('"success":true')]);
    }
    // nginx logs a warning for each temporary file.
    expect(await nginx.errors()).not.toContain('temporary file');
  });

  it('answers 100 to a client that sends Expect: 100-continue', async () => {
    const body = formFileFirst(await picture('jpeg'));
    const client = connected();
    const headers = ['Expect: 100-continue'];
    await client.send(uploadHead(client, { as: PATIENT, length: body.length, headers }));
    expect((await answerOn(client)).status).toBe(100);
    await client.send(body);
    const { status, body: answered } = await answerOn(client);
    expect([status, answered]).toEqual([200, expect.stringContaining('"success":true')]);
  });

  it('reuses its connections to the image store', async () => {
    let connections = 0;
    const server: Server = test.app.getHttpServer();
    const count = (): void => void (connections += 1);
    server.on('connection', count);
    for (let index = 0; index < 20; index += 1)
      expect((await through('/api/chat-images/99999', { as: PATIENT })).status).toBe(404);
    server.off('connection', count);
    expect(connections).toBeLessThanOrEqual(1);
  });

  it('passes on a valid request id of the client, or sets a new id', async () => {
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

  it('has longer timeouts than the image store, and a shorter keep-alive', () => {
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

  it('answers 503 in the form of the image store when that is down', async () => {
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

/** A substitute for the main application, which answers with the request. */
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

/** A picture of that many bytes, most of them after its end. */
async function pictureOf(bytes: number): Promise<Buffer> {
  const photo = await picture('jpeg');
  return Buffer.concat([photo, Buffer.alloc(bytes - photo.length)]);
}
