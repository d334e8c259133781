import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import {
  arithmeticJpeg,
  filled,
  flatGifData,
  gif,
  jpegOfScans,
  png,
  pngChunk,
} from '../support/hostile-pictures.js';
import { phonePhoto, picture } from '../support/pictures.js';
import { Client } from '../support/raw-clients.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

const MIB = 1024 * 1024;

describe('an error response', () => {
  let test: TestApp;
  let uploaded: UploadedChatImageDto;

  beforeAll(async () => {
    test = await TestApp.start();
    uploaded = ((await (await test.upload(await picture('png'))).json()) as UploadedChatImageResponseDto)
      .data;
  });

  afterAll(() => test.stop());

  /** Compares an error response with the documented form, and returns its body. */
  async function expectFailure(response: Response, status: number, code: string): Promise<ErrorBodyDto> {
    const body = (await response.json()) as ErrorBodyDto;
    expect([response.status, body.error_code]).toEqual([status, code]);
    expect(response.headers.get('content-type')).toMatch(/^application\/json/);
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(body.request_id).toBe(response.headers.get('x-request-id'));
    const { message, errors, ...rest } = body;
    expect(rest).toEqual({ success: false, error_code: code, request_id: expect.any(String) });
    expect(message).toMatch(/^[A-Z].{5,100}[.]$/);
    for (const sentences of Object.values(errors ?? {})) expect(sentences.length).toBeGreaterThan(0);
    if ([429, 503].includes(status)) expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0);
    return body;
  }

  const signedUrl = (id: string | number, as?: number): Promise<Response> =>
    test.fetch(`/api/chat-images/${id}/signed-url`, as === undefined ? {} : { as });

  const send = (form: FormData, as = PATIENT): Promise<Response> =>
    test.fetch('/api/upload/chat-image', { method: 'POST', body: form, as });

  /** Asks for readiness until it fails, as the response is cached for a second. */
  const notReady = async (): Promise<Response> => {
    for (;;) {
      const response = await test.fetch('/api/health/ready');
      if (!response.ok) return response;
    }
  };

  it('is 401 UNAUTHENTICATED for a request without a token', async () => {
    const response = await signedUrl(uploaded.id);
    await expectFailure(response, 401, 'UNAUTHENTICATED');
    expect(response.headers.get('www-authenticate')).toBe('Bearer');
  });

  it('is 403 FORBIDDEN for a user who is neither the patient nor the doctor', async () => {
    await expectFailure(await signedUrl(uploaded.id, OUTSIDER), 403, 'FORBIDDEN');
    await expectFailure(await test.upload(await phonePhoto(), { as: OUTSIDER }), 403, 'FORBIDDEN');
    await expectFailure(
      await test.fetch(`/storage/${uploaded.file_path}`, { as: OUTSIDER }),
      403,
      'FORBIDDEN',
    );
  });

  it.each([
    '0',
    '-1',
    '2.5',
    '1e3',
    'abc',
    '99999',
    '9007199254740993',
    '%00',
    '%zz',
    '%ff',
    '50%',
    '%F0%9F%A9%B9',
    'a'.repeat(3000),
    "1'--",
  ])('is 404 IMAGE_NOT_FOUND for the unknown image id %j', async (id) => {
    await expectFailure(await signedUrl(id, DOCTOR), 404, 'IMAGE_NOT_FOUND');
  });

  it('is 404 IMAGE_NOT_FOUND for a stable address with a wrong appointment or name', async () => {
    const elsewhere = uploaded.file_path.replace(`_${APPOINTMENT}/`, '_146/');
    await expectFailure(await test.fetch(`/storage/${elsewhere}`, { as: DOCTOR }), 404, 'IMAGE_NOT_FOUND');
    await expectFailure(
      await test.fetch(`/storage/${uploaded.file_path}x`, { as: DOCTOR }),
      404,
      'IMAGE_NOT_FOUND',
    );
    await expectFailure(
      await test.fetch('/storage/chat_images/appointment_x/y.png', { as: DOCTOR }),
      404,
      'IMAGE_NOT_FOUND',
    );
  });

  it('is 404 IMAGE_NOT_FOUND for a pending upload', async () => {
    await test.database.query(
      `INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type, state)
       VALUES (5000, $1, 'p', 'pending.png', $2, 1, 'image/png', 'pending')`,
      [APPOINTMENT, PATIENT],
    );
    await expectFailure(await signedUrl(5000, PATIENT), 404, 'IMAGE_NOT_FOUND');
    await expectFailure(await signedUrl('pending.png', PATIENT), 404, 'IMAGE_NOT_FOUND');
  });

  it('is 404 APPOINTMENT_NOT_FOUND for an unknown or a deleted appointment', async () => {
    await expectFailure(
      await test.upload(await phonePhoto(), { appointment: '999' }),
      404,
      'APPOINTMENT_NOT_FOUND',
    );
    // A database that was restored in parts may lack the foreign key that prevents this.
    await test.database.query('ALTER TABLE chat_images DROP CONSTRAINT chat_images_appointment_id_foreign');
    await test.database.query(
      `INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type)
       VALUES (6000, 4242, 'q', 'gone.png', $1, 1, 'image/png')`,
      [PATIENT],
    );
    await expectFailure(await signedUrl(6000, PATIENT), 404, 'APPOINTMENT_NOT_FOUND');
  });

  it.each(['/', '/api', '/api/nothing', '/api/%zz', '/api/upload/chat-image', '/storage', '/wp-login.php'])(
    'is 404 NOT_FOUND for GET %s',
    async (path) => {
      await expectFailure(await test.fetch(path, { as: PATIENT }), 404, 'NOT_FOUND');
      await expectFailure(await test.fetch(path), 404, 'NOT_FOUND');
    },
  );

  it('is 413 FILE_TOO_LARGE for a file of more than 10 MiB, not for 10 MiB', async () => {
    await expectFailure(await test.upload(Buffer.alloc(10 * MIB + 1)), 413, 'FILE_TOO_LARGE');
    await expectFailure(await test.upload(Buffer.alloc(30 * MIB)), 413, 'FILE_TOO_LARGE');
    await expectFailure(await test.upload(Buffer.alloc(10 * MIB)), 422, 'INVALID_IMAGE');
  });

  it('is 413 FILE_TOO_LARGE while a body without Content-Length is read', async () => {
    const boundary = 'b';
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n`;
    let sent = 0;
    const body = new ReadableStream({
      start: (controller) => controller.enqueue(Buffer.from(head)),
      pull: (controller) => {
        sent += MIB;
        if (sent > 500 * MIB) controller.close();
        else controller.enqueue(Buffer.alloc(MIB));
      },
    });
    const response = await test.fetch('/api/upload/chat-image', {
      method: 'POST',
      body,
      duplex: 'half',
      as: PATIENT,
      headers: { 'content-type': `multipart/form-data; boundary=${boundary}` },
    });
    await expectFailure(response, 413, 'FILE_TOO_LARGE');
    expect(sent).toBeLessThan(100 * MIB);
  });

  it.each(['application/json', 'image/jpeg', 'multipart/mixed; boundary=x', ''])(
    'is 415 UNSUPPORTED_MEDIA_TYPE for an upload sent as %j',
    async (type) => {
      const response = await test.fetch('/api/upload/chat-image', {
        method: 'POST',
        body: Buffer.from('{}'),
        as: PATIENT,
        headers: type ? { 'content-type': type } : {},
      });
      await expectFailure(response, 415, 'UNSUPPORTED_MEDIA_TYPE');
    },
  );

  it.each(['0', 'NaN', 'text_session_123', '', '-1', '1.5', '9007199254740993', '99999999999999999999'])(
    'is 422 VALIDATION_FAILED for the appointment_id %j',
    async (appointment) => {
      const { errors } = await expectFailure(
        await test.upload(await phonePhoto(), { appointment }),
        422,
        'VALIDATION_FAILED',
      );
      expect(errors).toEqual({
        appointment_id: [expect.stringMatching(/^The appointment_id must be .*\.$/)],
      });
    },
  );

  it('is 422 VALIDATION_FAILED and names every missing field', async () => {
    const { errors } = await expectFailure(await send(new FormData()), 422, 'VALIDATION_FAILED');
    expect(Object.keys(errors ?? {}).sort()).toEqual(['appointment_id', 'file']);
    const withoutFile = new FormData();
    withoutFile.append('appointment_id', String(APPOINTMENT));
    const body = await expectFailure(await send(withoutFile), 422, 'VALIDATION_FAILED');
    expect(Object.keys(body.errors ?? {})).toEqual(['file']);
  });

  it('is 422 VALIDATION_FAILED for repeated fields, unknown fields and an incomplete form', async () => {
    const photo = new Blob([new Uint8Array(await phonePhoto())]);
    const twoFiles = new FormData();
    twoFiles.append('file', photo, 'a.jpg');
    twoFiles.append('file', photo, 'b.jpg');
    twoFiles.append('appointment_id', String(APPOINTMENT));
    await expectFailure(await send(twoFiles), 422, 'VALIDATION_FAILED');
    const twoAppointments = new FormData();
    twoAppointments.append('appointment_id', String(APPOINTMENT));
    twoAppointments.append('appointment_id', '146');
    twoAppointments.append('file', photo, 'a.jpg');
    await expectFailure(await send(twoAppointments), 422, 'VALIDATION_FAILED');
    const otherField = new FormData();
    otherField.append('picture', photo, 'a.jpg');
    otherField.append('appointment_id', String(APPOINTMENT));
    await expectFailure(await send(otherField), 422, 'VALIDATION_FAILED');
    const truncated = await test.fetch('/api/upload/chat-image', {
      method: 'POST',
      body: Buffer.from('--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nabc'),
      as: PATIENT,
      headers: { 'content-type': 'multipart/form-data; boundary=b' },
    });
    await expectFailure(truncated, 422, 'VALIDATION_FAILED');
    const noBoundary = await test.fetch('/api/upload/chat-image', {
      method: 'POST',
      body: Buffer.from('x'),
      as: PATIENT,
      headers: { 'content-type': 'multipart/form-data' },
    });
    await expectFailure(noBoundary, 422, 'VALIDATION_FAILED');
  });

  it('is 422 INVALID_IMAGE and says why', async () => {
    const photo = await phonePhoto();
    const cases: [bytes: Buffer, sentence: RegExp][] = [
      [Buffer.alloc(0), /empty/],
      [Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), /SVG/],
      [Buffer.from('<?xml version="1.0"?>\n<svg/>'), /SVG/],
      [Buffer.from('<!DOCTYPE html><script>alert(1)</script>'), /HTML/],
      [Buffer.from('%PDF-1.7\n'), /PDF/],
      [Buffer.from('\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'latin1'), /HEIC.*JPEG/],
      [Buffer.from('plain text'), /not a JPEG, PNG, GIF or WebP/],
      [photo.subarray(0, photo.length / 2), /damaged or incomplete/],
      [Buffer.from('\xff\xd8\xff\xe0 not really', 'latin1'), /damaged/],
      [jpegOfScans({ width: 3264, height: 2448 }), /takes too long to read/],
      [arithmeticJpeg({ width: 3264, height: 2448 }), /phones do not show/],
      [gif(1, flatGifData(1), 1001), /too many frames/],
      [gif(2500, flatGifData(2500 ** 2), 65), /animation is too large/],
      [png({ width: 1, height: 1, depth: 8 }, { before: filled(pngChunk('what'), MIB) }), /too many parts/],
    ];
    for (const [bytes, sentence] of cases) {
      const { message, errors } = await expectFailure(await test.upload(bytes), 422, 'INVALID_IMAGE');
      expect(message).toMatch(sentence);
      expect(errors).toEqual({ file: [message] });
    }
  });

  it.each([
    ['is 400 MALFORMED_REQUEST for bytes that are not HTTP', 400, 'MALFORMED_REQUEST', 'NONSENSE\r\n\r\n'],
    [
      'is 400 MALFORMED_REQUEST for a body with two lengths',
      400,
      'MALFORMED_REQUEST',
      'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    ],
    [
      'is 400 MALFORMED_REQUEST for HTTP/1.1 without a Host header',
      400,
      'MALFORMED_REQUEST',
      'GET /api/health HTTP/1.1\r\nConnection: close\r\n\r\n',
    ],
    [
      'is 431 HEADERS_TOO_LARGE for headers of 20 kB',
      431,
      'HEADERS_TOO_LARGE',
      `GET /api/health HTTP/1.1\r\nHost: a\r\nCookie: ${'a'.repeat(20_000)}\r\n\r\n`,
    ],
  ])('%s', async (_, status, code, request) => {
    const client = new Client(test);
    await client.send(request);
    const [answer, ...others] = await client.answersUntilClosed();
    expect([answer?.status, others]).toEqual([status, []]);
    expect(Object.fromEntries(answer?.headers ?? [])).toMatchObject({
      'x-request-id': expect.stringMatching(/^[\da-f-]{36}$/),
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-store',
      connection: 'close',
    });
    expect(JSON.parse(answer?.body ?? '')).toEqual({
      success: false,
      message: expect.stringMatching(/^[A-Z].{5,100}[.]$/),
      error_code: code,
      request_id: expect.any(String),
    });
  });

  it('is not sent for HTTP/1.0 without a Host header', async () => {
    const client = new Client(test);
    await client.send('GET /api/health HTTP/1.0\r\n\r\n');
    expect((await client.answersUntilClosed()).map(({ status }) => status)).toEqual([200]);
  });

  it('does not replace the responses to valid requests before it on the connection', async () => {
    const client = new Client(test);
    const head = client.head({ method: 'GET', path: '/api/health/ready' });
    await client.send(`${head.repeat(3)}NONSENSE\r\n\r\n`);
    expect((await client.answersUntilClosed()).map(({ status }) => status)).toEqual([200, 200, 200]);
  });

  it('is 503 STORAGE_UNAVAILABLE while the storage is down, and uploads work afterwards', async () => {
    if (test.settings.storage.driver !== 'local') throw new Error('This suite runs on the local storage.');
    const { directory } = test.settings.storage;
    const count = async (): Promise<unknown> => test.database.query('SELECT count(*) FROM chat_images');
    const before = await count();
    await rename(directory, `${directory}.away`);
    await writeFile(directory, 'a file where a folder should be');
    try {
      await expectFailure(await test.upload(await picture('png')), 503, 'STORAGE_UNAVAILABLE');
      await expectFailure(await notReady(), 503, 'STORAGE_UNAVAILABLE');
      expect((await test.fetch('/api/health')).status).toBe(200);
    } finally {
      await rm(directory);
      await mkdir(directory);
      await rm(directory, { recursive: true });
      await rename(`${directory}.away`, directory);
    }
    expect((await test.upload(await picture('png'))).status).toBe(200);
    // The response is cached for a second.
    while ((await test.fetch('/api/health/ready')).status !== 200);
    expect(before).not.toEqual(await count());
  });

  it('is 500 INTERNAL_ERROR without the cause, which is only logged', async () => {
    await test.database.query('ALTER TABLE chat_image_access RENAME COLUMN accessed_by TO broken');
    const body = await expectFailure(await signedUrl(uploaded.id, DOCTOR), 500, 'INTERNAL_ERROR');
    await test.database.query('ALTER TABLE chat_image_access RENAME COLUMN broken TO accessed_by');
    expect(JSON.stringify(body)).not.toMatch(/accessed_by|column|select|insert/i);
    const logged = test.logLines.find(
      (line) => line.includes(body.request_id) && line.includes('INTERNAL_ERROR'),
    );
    expect(logged).toContain('42703');
  });

  it('is 503 DATABASE_UNAVAILABLE while the database is stopped', async () => {
    await test.postgres.stop();
    await expectFailure(await signedUrl(uploaded.id, DOCTOR), 503, 'DATABASE_UNAVAILABLE');
    await expectFailure(await test.upload(await picture('png')), 503, 'DATABASE_UNAVAILABLE');
    await expectFailure(await notReady(), 503, 'DATABASE_UNAVAILABLE');
    expect((await test.fetch('/api/health')).status).toBe(200);
  });
});

describe('the rate limits (429 TOO_MANY_REQUESTS)', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start({
      RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '5',
      RATE_LIMIT_UPLOADS_PER_MINUTE: '3',
      RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '4',
      TRUST_PROXY: '1',
    });
  });

  afterAll(() => test.stop());

  const statuses = async (count: number, send: () => Promise<Response>): Promise<number[]> => {
    const answers = await Promise.all(Array.from({ length: count }, send));
    for (const answer of answers.filter(({ status }) => status === 429)) {
      expect(await answer.json()).toMatchObject({ success: false, error_code: 'TOO_MANY_REQUESTS' });
      const seconds = Number(answer.headers.get('retry-after'));
      expect(seconds).toBeGreaterThan(0);
      expect(seconds).toBeLessThanOrEqual(60);
    }
    return answers.map(({ status }) => status).sort();
  };

  it('count signed URLs per user, over all routes', async () => {
    const ask = (as: number) => (): Promise<Response> => test.fetch('/api/chat-images/77/signed-url', { as });
    expect(await statuses(4, ask(DOCTOR))).toEqual([404, 404, 404, 404]);
    const media = (): Promise<Response> =>
      test.fetch('/storage/chat_images/appointment_145/x.png', { as: DOCTOR });
    expect(await statuses(3, media)).toEqual([404, 429, 429]);
    expect(await statuses(1, ask(PATIENT))).toEqual([404]);
  });

  it('count uploads per user, apart from signed URLs', async () => {
    const bytes = await picture('png');
    expect(await statuses(5, () => test.upload(bytes))).toEqual([200, 200, 200, 429, 429]);
    expect(await statuses(1, () => test.upload(bytes, { as: DOCTOR }))).toEqual([200]);
  });

  it('count requests without a valid token per client address of the trusted proxy', async () => {
    const from = (address: string) => (): Promise<Response> =>
      test.fetch('/api/chat-images/77/signed-url', { headers: { 'x-forwarded-for': address } });
    expect(await statuses(6, from('203.0.113.7'))).toEqual([401, 401, 401, 401, 429, 429]);
    expect(await statuses(1, from('203.0.113.8'))).toEqual([401]);
    // An IPv6 /64 network counts as one address.
    expect(await statuses(5, from('2001:db8::1'))).toEqual([401, 401, 401, 401, 429]);
    expect(await statuses(1, from('2001:db8::2'))).toEqual([429]);
  });

  it('count unknown paths per network, together with requests without a valid token', async () => {
    const from =
      (address: string, path: string, headers: object = {}) =>
      (): Promise<Response> =>
        test.fetch(path, { headers: { ...headers, 'x-forwarded-for': address } });
    const nowhere = from('203.0.113.20', '/wp-login.php');
    expect(await statuses(3, nowhere)).toEqual([404, 404, 404]);
    expect(await statuses(2, from('203.0.113.20', '/api/chat-images/77'))).toEqual([401, 429]);
    expect(await statuses(2, nowhere)).toEqual([429, 429]);
    const forged = from('203.0.113.21', '/nothing', { authorization: `Bearer ${test.token(DOCTOR)}x` });
    expect(await statuses(5, forged)).toEqual([404, 404, 404, 404, 429]);
    expect(await statuses(1, from('203.0.113.22', '/wp-login.php'))).toEqual([404]);
  });

  it('count unknown paths per user when the token is valid', async () => {
    const user = await test.addPatient();
    const ask = (path: string) => (): Promise<Response> =>
      test.fetch(path, { as: user, headers: { 'x-forwarded-for': '203.0.113.30' } });
    expect(await statuses(4, ask('/api/nothing'))).toEqual([404, 404, 404, 404]);
    expect(await statuses(2, ask('/api/chat-images/77/signed-url'))).toEqual([404, 429]);
    expect(await statuses(1, ask('/api/nothing'))).toEqual([429]);
    const stranger = (): Promise<Response> =>
      test.fetch('/api/nothing', { headers: { 'x-forwarded-for': '203.0.113.30' } });
    expect(await statuses(1, stranger)).toEqual([404]);
  });
});
