import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import {
  type Answer,
  chunk,
  type Client,
  Clients,
  END,
  expectRefusal,
  FIELD,
  FILE_HEAD,
  form,
  type Head,
  inUse,
  MIB,
  serverOf,
} from '../support/raw-clients.js';
import { DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

const KIB_64 = Buffer.alloc(64 * 1024);

function pieces(bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
    bytes.subarray(index * size, (index + 1) * size),
  );
}

describe('POST /api/upload/chat-image', () => {
  const clients = new Clients();
  let test: TestApp;
  let photo: Buffer;
  let imageId: number;

  beforeAll(async () => {
    // Many tests send the same photo, which is a duplicate in all of them.
    test = await TestApp.start({ UPLOAD_DEDUPE_SECONDS: '3600' });
    photo = await picture('png');
    const { data } = (await (await test.upload(photo)).json()) as UploadedChatImageResponseDto;
    imageId = data.id;
  });

  afterEach(() => clients.close(test));

  afterAll(() => test.stop());

  const connected = (): Client => clients.connect(test);
  const signedUrl = (): Head => ({
    method: 'GET',
    path: `/api/chat-images/${imageId}/signed-url`,
    as: PATIENT,
  });

  /** The rows and the stored files that an upload may leave behind. */
  async function traces(): Promise<unknown> {
    if (test.settings.storage.driver !== 'local') throw new Error('This suite runs on the local storage.');
    const rows = await test.database.query<unknown[]>(
      'SELECT id, state, updated_at FROM chat_images ORDER BY id',
    );
    return { rows, files: (await readdir(test.settings.storage.directory, { recursive: true })).sort() };
  }

  /** Expects that the connection still works for another request and for an upload. */
  async function expectGoesOn(client: Client): Promise<void> {
    const get = await client.ask({ ...signedUrl(), headers: ['X-Request-Id: the-next-one'] });
    expect([get.status, get.headers.get('x-request-id')]).toEqual([200, 'the-next-one']);
    const post = await client.ask({ as: PATIENT, headers: ['X-Request-Id: the-one-after'] }, form(photo));
    expect([post.status, post.headers.get('x-request-id')]).toEqual([200, 'the-one-after']);
    expect(JSON.parse(post.body)).toMatchObject({ success: true, data: { id: imageId } });
  }

  /** Each upload can be refused by its request head alone. */
  const BY_HEAD: [status: number, code: string, head: Head, length: number][] = [
    [401, 'UNAUTHENTICATED', {}, MIB],
    [413, 'FILE_TOO_LARGE', { as: PATIENT }, 11 * MIB],
    [415, 'UNSUPPORTED_MEDIA_TYPE', { as: PATIENT, type: 'application/json' }, MIB],
    [415, 'UNSUPPORTED_MEDIA_TYPE', { as: PATIENT, headers: ['Content-Encoding: gzip'] }, MIB],
    [422, 'VALIDATION_FAILED', { as: PATIENT, headers: ['Idempotency-Key: a b'] }, MIB],
    [422, 'VALIDATION_FAILED', { as: PATIENT, type: 'multipart/form-data' }, MIB],
  ];

  describe('before the whole body has come', () => {
    it.each(BY_HEAD)('answers %d %s to the request head alone', async (status, code, head, length) => {
      const client = connected();
      const sent = client.head({
        ...head,
        headers: [...(head.headers ?? []), `Content-Length: ${length}`],
      });
      await client.send(sent);
      expectRefusal(await client.answer(), status, code);
      expect(client.socket.bytesWritten).toBe(sent.length);
    });

    it('answers 403 after appointment_id, before the file has come', async () => {
      const before = await traces();
      const client = connected();
      await client.send(client.head({ as: OUTSIDER, headers: [`Content-Length: ${MIB}`] }));
      await client.send(FIELD + FILE_HEAD.slice(0, 10));
      expectRefusal(await client.answer(), 403, 'FORBIDDEN');
      expect(await traces()).toEqual(before);
    });

    it('answers 403 after a file that comes first, and stores nothing', async () => {
      const before = await traces();
      const client = connected();
      const body = Buffer.concat([
        Buffer.from(FILE_HEAD),
        await picture('jpeg'),
        Buffer.from(`\r\n${FIELD.trimEnd()}${END}`),
      ]);
      expectRefusal(await client.ask({ as: OUTSIDER }, body), 403, 'FORBIDDEN');
      expect(await traces()).toEqual(before);
      await expectGoesOn(client);
    });

    it('releases the memory with the 403 response, not when the client stops sending', async () => {
      const client = connected();
      await client.send(client.head({ as: OUTSIDER, headers: [`Content-Length: ${9 * MIB}`] }));
      await client.send(FILE_HEAD);
      await client.send(Buffer.alloc(5 * MIB));
      await eventually(() => inUse(test) >= 9 * MIB, 'the file to be received');
      await client.send(`\r\n${FIELD}--b`);
      expectRefusal(await client.answer(), 403, 'FORBIDDEN');
      await eventually(() => inUse(test) === 0, 'the memory of a refused upload', 2000);
      expect(client.ended).toBe(false);
    });
  });

  describe('while the client keeps sending', () => {
    it.each([
      ['with Connection: keep-alive', 'keep-alive', false],
      ['with Connection: close', 'close', false],
      ['in chunks', 'keep-alive', true],
      ['in chunks with Connection: close', 'close', true],
    ])('delivers 403 to a slow client that sends 2 MiB more, %s', async (_, connection, isChunked) => {
      const client = connected();
      const start = Buffer.concat([Buffer.from(FIELD + FILE_HEAD), Buffer.alloc(40)]);
      const length = start.length + 2 * MIB + END.length;
      const framing = isChunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${length}`;
      const send = (bytes: Uint8Array): Promise<void> => client.send(isChunked ? chunk(bytes) : bytes);
      await client.send(client.head({ as: OUTSIDER, headers: [framing, `Connection: ${connection}`] }));
      for (const piece of pieces(start, 5)) {
        await send(piece);
        await setTimeout(20);
      }
      expectRefusal(await client.answer(), 403, 'FORBIDDEN');
      for (const piece of pieces(Buffer.alloc(2 * MIB), KIB_64.length)) await send(piece);
      await send(Buffer.from(END));
      if (isChunked) await client.send('0\r\n\r\n');
      if (connection === 'close') await eventually(() => client.ended, 'the end of the connection');
      else await expectGoesOn(client);
      expect(client.error).toBeUndefined();
    });

    it('delivers 403 to a client that reads only after sending everything', async () => {
      const client = connected();
      client.socket.pause();
      const body = form(Buffer.alloc(9 * MIB));
      await client.send(client.head({ as: OUTSIDER, headers: [`Content-Length: ${body.length}`] }));
      await client.send(body);
      client.socket.resume();
      expectRefusal(await client.answer(), 403, 'FORBIDDEN');
      expect(client.error).toBeUndefined();
    });

    it('closes the connection of a client that never stops sending', async () => {
      const client = connected();
      await client.send(client.head({ as: OUTSIDER, headers: ['Transfer-Encoding: chunked'] }));
      await client.send(chunk(Buffer.from(FIELD + FILE_HEAD)));
      expectRefusal(await client.answer(), 403, 'FORBIDDEN');
      const most = 100 * MIB;
      while (!client.socket.destroyed && client.socket.bytesWritten < most) await client.send(chunk(KIB_64));
      await eventually(() => client.socket.destroyed, 'the cut');
      expect(client.socket.bytesWritten).toBeGreaterThan(20 * MIB);
      expect(client.socket.bytesWritten).toBeLessThan(most);
    });
  });

  describe('when the client aborts', () => {
    it.each([
      ['half-closes its connection in the middle of a file', (client: Client) => void client.socket.end()],
      ['closes its connection in the middle of a file', (client: Client) => void client.socket.destroy()],
      [
        'resets its connection in the middle of a file',
        (client: Client) => void client.socket.resetAndDestroy(),
      ],
      ['sends a chunk without a valid size', (client: Client) => void client.socket.write('zz\r\n')],
    ])('releases the memory at once when the client %s', async (_, breakOff) => {
      const client = connected();
      await client.send(client.head({ as: PATIENT, headers: ['Transfer-Encoding: chunked'] }));
      await client.send(chunk(Buffer.concat([Buffer.from(FIELD + FILE_HEAD), Buffer.alloc(MIB)])));
      await eventually(() => inUse(test) >= 2 * MIB, 'the file to be received');
      breakOff(client);
      await eventually(() => inUse(test) === 0, 'the memory of the upload', 2000);
      await eventually(() => client.ended, 'the end of the connection');
    });

    it('answers 408 at the request timeout', async () => {
      const accepted: Socket[] = [];
      const accept = (socket: Socket): void => void accepted.push(socket);
      serverOf(test).once('connection', accept);
      const client = connected();
      await client.send(client.head({ as: PATIENT, headers: [`Content-Length: ${MIB}`] }));
      await client.send(FIELD + FILE_HEAD);
      await client.send(KIB_64);
      await eventually(() => inUse(test) > 0, 'the file to be received');
      // Node checks the request timeout every 30 seconds, and then emits this event.
      const timeout = Object.assign(new Error('Request timeout'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
      serverOf(test).emit('clientError', timeout, accepted[0]);
      expectRefusal(await client.answer(), 408, 'REQUEST_TIMEOUT');
      await eventually(() => inUse(test) === 0, 'the memory of the upload', 2000);
      await eventually(() => client.ended, 'the end of the connection');
    });
  });

  describe('with Expect: 100-continue', () => {
    it.each(BY_HEAD)('answers %d %s without 100 Continue', async (status, code, head, length) => {
      const client = connected();
      const headers = [...(head.headers ?? []), `Content-Length: ${length}`, 'Expect: 100-continue'];
      await client.send(client.head({ ...head, headers }));
      const answer = await client.answer();
      expectRefusal(answer, status, code);
      // The connection must close, as the body may still follow.
      expect(answer.headers.get('connection')).toBe('close');
    });

    it('answers 100 to an outsider, and 403 after appointment_id', async () => {
      const client = connected();
      const headers = [`Content-Length: ${MIB}`, 'Expect: 100-continue'];
      await client.send(client.head({ as: OUTSIDER, headers }));
      expect((await client.answer()).status).toBe(100);
      await client.send(`${FIELD}--b`);
      expectRefusal(await client.answer(), 403, 'FORBIDDEN');
    });

    it('answers 100 once to a participant, and then 200', async () => {
      const client = connected();
      const body = form(photo);
      const headers = [`Content-Length: ${body.length}`, 'Expect: 100-continue'];
      await client.send(client.head({ as: PATIENT, headers }));
      expect((await client.answer()).status).toBe(100);
      await client.send(body);
      expect((await client.answer()).status).toBe(200);
      await expectGoesOn(client);
    });
  });

  describe('keeps the connection open for the next request', () => {
    const twice = Buffer.from(FIELD + FIELD + FILE_HEAD + END);
    const nameless = Buffer.from('--b\r\n\r\nx\r\n'.repeat(20));
    const nowhere = (): Buffer => Buffer.from(form(photo).toString('latin1').replace('145', '999'), 'latin1');

    it.each<[status: number, code: string, head: Head, body: () => Buffer]>([
      [401, 'UNAUTHENTICATED', {}, () => form(photo)],
      [403, 'FORBIDDEN', { as: OUTSIDER }, () => form(Buffer.alloc(3 * MIB))],
      [404, 'APPOINTMENT_NOT_FOUND', { as: PATIENT }, nowhere],
      [404, 'NOT_FOUND', { as: PATIENT, path: '/api/nothing' }, () => form(photo)],
      [413, 'FILE_TOO_LARGE', { as: PATIENT }, () => form(Buffer.alloc(10 * MIB + 1))],
      [413, 'FILE_TOO_LARGE', { as: PATIENT }, () => form(Buffer.alloc(11 * MIB))],
      [415, 'UNSUPPORTED_MEDIA_TYPE', { as: PATIENT, type: 'application/json' }, () => form(photo)],
      [422, 'VALIDATION_FAILED', { as: PATIENT }, () => twice],
      [422, 'VALIDATION_FAILED', { as: PATIENT }, () => Buffer.concat([nameless, form(photo)])],
      [422, 'VALIDATION_FAILED', { as: PATIENT }, () => form(photo).subarray(0, -5)],
      [422, 'INVALID_IMAGE', { as: PATIENT }, () => form(Buffer.from('no picture'))],
    ])('after a %d %s response', async (status, code, head, body) => {
      const client = connected();
      expectRefusal(await client.ask(head, body()), status, code);
      await expectGoesOn(client);
      expect(client.error).toBeUndefined();
    });

    it('when the requests are pipelined', async () => {
      const client = connected();
      const body = form(Buffer.alloc(100_000));
      const id = (name: string): string => `X-Request-Id: pipelined-${name}`;
      const bytes = Buffer.concat([
        Buffer.from(client.head({ ...signedUrl(), headers: [id('1')] })),
        Buffer.from(client.head({ as: OUTSIDER, headers: [id('2'), `Content-Length: ${body.length}`] })),
        body,
        Buffer.from(client.head({ ...signedUrl(), headers: [id('3')] })),
      ]);
      await client.send(bytes);
      const answers = [await client.answer(), await client.answer(), await client.answer()];
      expect(answers.map(({ status, headers }) => [status, headers.get('x-request-id')])).toEqual([
        [200, 'pipelined-1'],
        [403, 'pipelined-2'],
        [200, 'pipelined-3'],
      ]);
    });
  });

  it('is not delayed by fifty clients of another user that send slowly', async () => {
    const body = form(photo);
    const slow = await Promise.all(
      Array.from({ length: 50 }, async () => {
        const client = connected();
        await client.send(client.head({ as: PATIENT, headers: [`Content-Length: ${body.length}`] }));
        return client;
      }),
    );
    let sent = 0;
    const pace = setInterval(() => {
      for (const client of slow) client.socket.write(body.subarray(sent, sent + 1));
      sent += 1;
    }, 100);
    try {
      await eventually(() => sent >= 3, 'the slow clients to be under way');
      const started = performance.now();
      expect((await connected().ask({ as: DOCTOR }, body)).status).toBe(200);
      expect(performance.now() - started).toBeLessThan(2000);
    } finally {
      clearInterval(pace);
    }
  });
});

describe('POST /api/upload/chat-image over the rate limit', () => {
  const clients = new Clients();
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start({
      RATE_LIMIT_UPLOADS_PER_MINUTE: '1',
      RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '1',
    });
  });

  afterEach(() => clients.close(test));

  afterAll(() => test.stop());

  it.each([
    ['with a token', { as: PATIENT }, 422],
    ['without a token', {}, 401],
  ])(
    'answers 429 to the request head of an upload %s, without 100 Continue',
    async (_, head: Head, first) => {
      expect((await clients.connect(test).ask(head, END)).status).toBe(first);
      for (const expectation of [[], ['Expect: 100-continue']]) {
        const client = clients.connect(test);
        const sent = client.head({ ...head, headers: [`Content-Length: ${MIB}`, ...expectation] });
        await client.send(sent);
        expectRefusal(await client.answer(), 429, 'TOO_MANY_REQUESTS');
        expect(client.socket.bytesWritten).toBe(sent.length);
      }
    },
  );
});

describe('uploads that together exceed UPLOAD_MEMORY_MIB', () => {
  const clients = new Clients();
  /** The largest file allowed, but not a picture, so that nothing is stored. */
  const file = Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), randomBytes(10 * MIB - 4)]);
  let test: TestApp;
  /** The bytes read of each connection when its response began. */
  let answered: { status: number; bytesRead: number }[];

  beforeAll(async () => {
    test = await TestApp.start({
      UPLOAD_MEMORY_MIB: '154',
      UPLOAD_WAIT_MS: '300',
      UPLOAD_SLOW_SECONDS: '120',
    });
    serverOf(test).prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
      const writeHead = response.writeHead.bind(response);
      response.writeHead = (status: number, ...rest: never[]): ServerResponse => {
        answered.push({ status, bytesRead: request.socket.bytesRead });
        return writeHead(status, ...rest);
      };
    });
  });

  beforeEach(() => {
    answered = [];
  });

  afterEach(() => clients.close(test));

  afterAll(() => test.stop());

  /** Sends a large upload without its last byte, as a user without other uploads. */
  async function sendAlmostAll(): Promise<Client> {
    const patient = await test.addPatient();
    const large = form(file, patient);
    const client = clients.connect(test);
    await client.send(client.head({ as: patient, headers: [`Content-Length: ${large.length}`] }));
    // This does not wait, as an upload that waits for memory is not read.
    client.socket.write(large.subarray(0, -1));
    return client;
  }

  it('are answered 503 after UPLOAD_WAIT_MS, and work again after the clients disconnect', async () => {
    const many: Client[] = [];
    while (many.length < 30) many.push(await sendAlmostAll());
    const answers = new Map<Client, Answer>();
    await eventually(() => {
      for (const client of many) {
        const answer = client.take();
        if (answer) answers.set(client, answer);
      }
      return answers.size >= 20;
    }, '503 for those who found no room');
    for (const answer of answers.values()) expectRefusal(answer, 503, 'OVERLOADED');
    expect(inUse(test)).toBeLessThanOrEqual(154 * MIB);
    clients.leave();
    const small = form(await picture('png'));
    expect((await clients.connect(test).ask({ as: PATIENT }, small)).status).toBe(200);
    await eventually(() => inUse(test) === 0, 'all memory to be given back');
  });

  it('are all answered when each sends its last byte', async () => {
    const [one, two] = [await sendAlmostAll(), await sendAlmostAll()];
    await eventually(() => inUse(test) >= 99 * MIB, 'both files to be received');
    for (const client of [one, two]) {
      await client.send(END.slice(-1));
      expectRefusal(await client.answer(), 422, 'INVALID_IMAGE');
    }
    await eventually(() => inUse(test) === 0, 'all memory to be given back');
  });

  it('are not read while they wait for memory', async () => {
    // Two uploads fill the memory, the third uses the reserve, the fourth gets none.
    for (const full of [49, 99, 149]) {
      await sendAlmostAll();
      await eventually(() => inUse(test) >= full * MIB, `${full} MiB to be received`);
    }
    const waiting = await sendAlmostAll();
    expectRefusal(await waiting.answer(), 503, 'OVERLOADED');
    expect(answered).toEqual([{ status: 503, bytesRead: expect.any(Number) }]);
    expect(answered[0]?.bytesRead).toBeLessThan(MIB);
    expect(inUse(test)).toBeLessThanOrEqual(154 * MIB);
  });
});
