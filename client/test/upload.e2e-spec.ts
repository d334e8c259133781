import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { CuttingProxy } from '../../test/support/cutting-proxy.js';
import { eventually } from '../../test/support/eventually.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../../test/support/test-app.js';
import { ChatImagesError, type ErrorCode, type Image, type Progress } from '../src/index.js';
import { clientOf, photo, rejection, SentRequests, storedImages } from './support.js';

const TEXT_SESSION = 148;

describe('an upload', () => {
  let service: TestApp;
  let network: CuttingProxy;
  let database: CuttingProxy;
  let before: number;
  let sent: SentRequests;

  beforeAll(async () => {
    service = await TestApp.start({ TEXT_SESSIONS: 'true' });
    await service.database.query(
      'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES ($1, $2, $3)',
      [TEXT_SESSION, PATIENT, DOCTOR],
    );
    const url = new URL(service.settings.database.url);
    database = await CuttingProxy.start({ host: url.hostname, port: Number(url.port) });
    url.host = database.address;
    await service.restart({ DATABASE_URL: url.href });
    network = await CuttingProxy.start({ host: '127.0.0.1', port: service.settings.port });
  });

  afterAll(async () => {
    await network.stop();
    await service.stop();
    await database.stop();
  });

  beforeEach(async () => {
    before = await storedImages(service);
    sent = new SentRequests();
  });

  afterEach(() => {
    network.pass();
    database.pass();
  });

  const overNetwork = (): { baseUrl: string; send: SentRequests['send'] } => ({
    baseUrl: `http://${network.address}/`,
    send: sent.send,
  });

  it('becomes an image, and tells its progress in bytes', async () => {
    const file = await photo('my rash.png');
    const progress: Progress[] = [];
    const image: Image = await clientOf(service, PATIENT).upload(file, {
      appointmentId: APPOINTMENT,
      onProgress: (step) => progress.push(step),
    });
    expect(image).toMatchObject({
      id: Number(image.image_id),
      appointment_id: APPOINTMENT,
      uploaded_by: PATIENT,
      name: 'my rash.png',
      mime_type: 'image/png',
      width: 64,
      height: 48,
      media_url: `${service.url}/storage/${image.file_path}`,
    });
    expect(progress.at(-1)).toEqual({ loaded: file.size, total: file.size });
  });

  it('gives no URL that an app could keep with the image', async () => {
    const image = await clientOf(service, PATIENT).upload(await photo(), { appointmentId: APPOINTMENT });
    expect(JSON.stringify(image)).not.toMatch(/signature/i);
  });

  it('reaches a text session', async () => {
    const client = clientOf(service, PATIENT);
    const image = await client.upload(await photo(), { textSessionId: TEXT_SESSION });
    expect(image.text_session_id).toBe(TEXT_SESSION);
    const { images } = await client.list({ textSessionId: TEXT_SESSION });
    expect(images.map(({ id }) => id)).toEqual([image.id]);
  });

  it.each([
    ['before a byte of the picture', { how: 'cut before' }],
    ['within the picture', { how: 'cut within', bytes: 3000 }],
    ['before the answer', { how: 'cut after' }],
    ['by a broken gateway', { how: 'answer 500' }],
  ] as const)('that is cut %s is sent again with its key, and becomes one image', async (_, fault) => {
    network.fail({ ...fault, at: 'POST /api/upload' });
    const upload = clientOf(service, PATIENT, overNetwork()).upload(await photo('wide.png', 640), {
      appointmentId: APPOINTMENT,
    });
    await eventually(() => network.hits >= 2, 'two tries');
    network.pass();
    const image = await upload;
    expect(sent.idempotencyKeys.length).toBeGreaterThanOrEqual(2);
    expect(new Set(sent.idempotencyKeys).size).toBe(1);
    expect(await storedImages(service)).toBe(before + 1);
    expect((await clientOf(service, DOCTOR).list(APPOINTMENT, { limit: 1 })).images[0]?.id).toBe(image.id);
  });

  it('has a key of its own', async () => {
    const client = clientOf(service, PATIENT, overNetwork());
    await client.upload(await photo(), { appointmentId: APPOINTMENT });
    await client.upload(await photo(), { appointmentId: APPOINTMENT });
    expect(new Set(sent.idempotencyKeys).size).toBe(2);
  });

  it('that gets no answer in time is sent again', async () => {
    network.fail({ how: 'hold answers', at: 'POST /api/upload' });
    const client = clientOf(service, PATIENT, { ...overNetwork(), timing: { uploadTimeoutMs: 2000 } });
    const upload = client.upload(await photo(), { appointmentId: APPOINTMENT });
    await eventually(() => sent.all.length >= 2, 'a second try');
    network.pass();
    await upload;
    expect(await storedImages(service)).toBe(before + 1);
  });

  it('without a network ends with a typed error when its time is over', async () => {
    network.fail({ how: 'refuse' });
    const upload = clientOf(service, PATIENT, overNetwork()).upload(await photo(), {
      appointmentId: APPOINTMENT,
      retryMs: 100,
    });
    const error = await rejection(upload);
    expect(error).toBeInstanceOf(ChatImagesError);
    expect(error).toMatchObject({ code: 'NETWORK_ERROR', status: undefined, isTemporary: true });
  });

  it('waits as long as the service says while the database is down', async () => {
    database.fail({ how: 'refuse' });
    const client = clientOf(service, PATIENT, overNetwork());
    const file = await photo();
    // Less time than Retry-After: there is no second try.
    const error = await rejection(client.upload(file, { appointmentId: APPOINTMENT, retryMs: 4000 }));
    expect(error).toMatchObject({
      code: 'DATABASE_UNAVAILABLE',
      status: 503,
      retryAfterMs: 5000,
      isTemporary: true,
    });
    expect(sent.all).toHaveLength(1);

    const upload = client.upload(file, { appointmentId: APPOINTMENT });
    await eventually(() => sent.all.length === 2, 'the first try');
    await eventually(() => database.hits > 1, 'the failure');
    database.pass();
    await upload;
    expect(await storedImages(service)).toBe(before + 1);
  });

  it('is not sent again before the end of a rate limit', async () => {
    await service.restart({ RATE_LIMIT_UPLOADS_PER_MINUTE: '1' });
    try {
      const user = await service.addPatient();
      const client = clientOf(service, user, { send: sent.send });
      await client.upload(await photo(), { appointmentId: user });
      const error = await rejection(client.upload(await photo(), { appointmentId: user, retryMs: 900 }));
      expect(error).toMatchObject({ code: 'TOO_MANY_REQUESTS', status: 429, isTemporary: true });
      expect((error as ChatImagesError).retryAfterMs).toBeGreaterThan(0);
      expect(sent.all).toHaveLength(2);
    } finally {
      await service.restart({ RATE_LIMIT_UPLOADS_PER_MINUTE: '100000' });
    }
  });

  it('of an outsider is refused with a typed error, once', async () => {
    const error = await rejection(
      clientOf(service, OUTSIDER, { send: sent.send }).upload(await photo(), { appointmentId: APPOINTMENT }),
    );
    expect(error).toBeInstanceOf(ChatImagesError);
    const { code, status, requestId, message, isTemporary } = error as ChatImagesError;
    const forbidden: ErrorCode = 'FORBIDDEN';
    expect({ code, status, isTemporary }).toEqual({ code: forbidden, status: 403, isTemporary: false });
    expect(requestId).toMatch(/^[\da-f-]{36}$/);
    expect(message).toMatch(/permission/);
    expect(sent.all).toHaveLength(1);
  });

  it('of what is no picture names the field', async () => {
    const text = new File(['no picture'], 'notes.txt');
    const error = await rejection(
      clientOf(service, PATIENT, { send: sent.send }).upload(text, { appointmentId: APPOINTMENT }),
    );
    expect(error).toMatchObject({ code: 'INVALID_IMAGE', status: 422, isTemporary: false });
    expect((error as ChatImagesError).fields).toEqual({ file: [expect.any(String)] });
    expect(sent.all).toHaveLength(1);
  });

  it('to a wrong address is refused at once, in words of the client', async () => {
    const client = clientOf(service, PATIENT, { baseUrl: `${service.url}/api/docs`, send: sent.send });
    const error = await rejection(client.list(APPOINTMENT));
    expect(error).toMatchObject({ status: 404, isTemporary: false });
    expect(sent.all).toHaveLength(1);
  });

  it('with a refused token asks for another one, once', async () => {
    const asked: (string | undefined)[] = [];
    const tokens = ['no token', service.token(PATIENT)];
    const client = clientOf(service, PATIENT, {
      send: sent.send,
      token: (refused) => {
        asked.push(refused);
        return Promise.resolve(tokens.shift() ?? 'no token');
      },
    });
    await client.upload(await photo(), { appointmentId: APPOINTMENT });
    expect(asked).toEqual([undefined, 'no token']);
    expect(new Set(sent.idempotencyKeys).size).toBe(1);

    const error = await rejection(client.upload(await photo(), { appointmentId: APPOINTMENT }));
    expect(error).toMatchObject({ code: 'UNAUTHENTICATED', status: 401 });
    expect([asked.length, sent.all.length]).toEqual([4, 4]);
  });

  it('passes on what `token` throws', async () => {
    const loggedOut = new Error('logged out');
    const client = clientOf(service, PATIENT, { token: () => Promise.reject(loggedOut), send: sent.send });
    expect(await rejection(client.upload(await photo(), { appointmentId: APPOINTMENT }))).toBe(loggedOut);
    expect(sent.all).toHaveLength(0);
  });

  describe('ends when its signal aborts', () => {
    it('before it begins', async () => {
      const client = clientOf(service, PATIENT, { send: sent.send });
      const signal = AbortSignal.abort(new Error('left the chat'));
      const error = await rejection(client.upload(await photo(), { appointmentId: APPOINTMENT, signal }));
      expect(error).toBe(signal.reason);
      expect(sent.all).toHaveLength(0);
    });

    it('while the token is awaited', async () => {
      const controller = new AbortController();
      const client = clientOf(service, PATIENT, {
        send: sent.send,
        token: () => new Promise(() => controller.abort()),
      });
      const { signal } = controller;
      const error = await rejection(client.upload(await photo(), { appointmentId: APPOINTMENT, signal }));
      expect(error).toMatchObject({ name: 'AbortError' });
      expect(sent.all).toHaveLength(0);
    });

    it('while the picture is on its way', async () => {
      network.fail({ how: 'hold', at: 'POST /api/upload' });
      const controller = new AbortController();
      const client = clientOf(service, PATIENT, overNetwork());
      const upload = client.upload(await photo(), {
        appointmentId: APPOINTMENT,
        signal: controller.signal,
      });
      await eventually(() => network.hits === 1, 'the request');
      controller.abort();
      expect(await rejection(upload)).toMatchObject({ name: 'AbortError' });
      await eventually(() => network.givenUp > 0, 'the end of the connection');
      expect(sent.all).toHaveLength(1);
    });

    it('while it waits for its next try', async () => {
      network.fail({ how: 'answer 500', at: 'POST /api/upload' });
      const controller = new AbortController();
      const client = clientOf(service, PATIENT, {
        ...overNetwork(),
        timing: { firstPauseMs: 3_600_000, longestPauseMs: 3_600_000, uploadRetryMs: 7_200_000 },
      });
      const upload = client.upload(await photo(), {
        appointmentId: APPOINTMENT,
        signal: controller.signal,
      });
      await eventually(() => network.hits === 1, 'the failure');
      controller.abort();
      expect(await rejection(upload)).toMatchObject({ name: 'AbortError' });
      expect(sent.all).toHaveLength(1);
    });
  });
});
