import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { CuttingProxy } from '../../test/support/cutting-proxy.js';
import { eventually } from '../../test/support/eventually.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../../test/support/test-app.js';
import { ChatImagesError, type ChatImagesOptions, type Image, type ImageName, send } from '../src/index.js';
import { clientOf, photo, rejection, SentRequests } from './support.js';

const HOUR_MS = 3_600_000;

const fileName = ({ file_path: path }: Image): string => path.slice(path.lastIndexOf('/') + 1);

describe('the URLs of pictures', () => {
  let service: TestApp;
  let images: Image[];
  let image: Image;
  let sent: SentRequests;

  beforeAll(async () => {
    service = await TestApp.start();
    const client = clientOf(service, PATIENT);
    const files = await Promise.all([photo('1.png'), photo('2.png'), photo('3.png')]);
    image = await client.upload(files[0], { appointmentId: APPOINTMENT });
    images = [image];
    for (const file of files.slice(1)) images.push(await client.upload(file, { appointmentId: APPOINTMENT }));
  });

  afterAll(() => service.stop());

  beforeEach(() => {
    sent = new SentRequests();
  });

  const doctor = (options: Partial<ChatImagesOptions> = {}): ReturnType<typeof clientOf> =>
    clientOf(service, DOCTOR, { send: sent.send, ...options });

  it('that are asked for in one tick, also by what was awaited in it, come in one request', async () => {
    const client = doctor();
    const later = async (name: ImageName, awaits: number): Promise<string> => {
      for (let count = 0; count < awaits; count += 1) await Promise.resolve();
      return client.url(name);
    };
    const names = images.map(fileName);
    const urls = await Promise.all([
      ...images.map((each, index) => later(each, 10 * index)),
      later(image.id, 5),
      later(fileName(image), 20),
    ]);
    expect(sent.batches).toEqual([4]);
    expect(urls.map((url) => new URL(url).pathname.split('/').at(-1))).toEqual([
      ...names,
      names[0],
      names[0],
    ]);
    expect((await fetch(urls[0])).status).toBe(200);
  });

  it('come in requests of a hundred', async () => {
    const client = doctor();
    const asked = Array.from({ length: 150 }, (_, index) => rejection(client.url(1_000_000 + index)));
    for (const error of await Promise.all(asked)) expect(error).toMatchObject({ code: 'IMAGE_NOT_FOUND' });
    expect(sent.batches.sort()).toEqual([100, 50]);
  });

  it('come in one request, beside a try that the network has lost', async () => {
    const network = await CuttingProxy.start({ host: '127.0.0.1', port: service.settings.port });
    try {
      network.fail({ how: 'cut before', at: 'POST /api/chat-images/signed-urls' });
      const asked = doctor({ baseUrl: `http://${network.address}` }).url(image);
      await eventually(() => network.hits > 0, 'a cut');
      network.pass();
      expect((await fetch(await asked)).status).toBe(200);
      expect(sent.all.length).toBeGreaterThan(1);
      expect(sent.batches).toEqual([1]);
    } finally {
      await network.stop();
    }
  });

  it('come from memory the next time', async () => {
    const client = doctor();
    const url = await client.url(image);
    expect([await client.url(image), await client.url(image.id)]).toEqual([url, url]);
    expect(sent.batches).toEqual([1]);
  });

  it('are forgotten on demand', async () => {
    const client = doctor();
    await client.url(image);
    client.forget();
    expect(client.urlLifeMs(image)).toBeUndefined();
    await client.url(image);
    expect(sent.batches).toEqual([1, 1]);
  });

  it('show the variant that was asked for, each from its own place', async () => {
    const client = doctor();
    const [thumbnail, original] = await Promise.all([
      client.url(image, { variant: 'thumbnail' }),
      client.url(image),
    ]);
    expect(await client.url(image, { variant: 'thumbnail' })).toBe(thumbnail);
    expect(sent.batches).toEqual([2]);
    const types = await Promise.all(
      [thumbnail, original].map(async (url) => (await fetch(url)).headers.get('content-type')),
    );
    expect(types).toEqual(['image/webp', 'image/png']);
  });

  it('of one refused picture do not harm the others', async () => {
    const client = doctor();
    const [url, error] = await Promise.all([client.url(image), rejection(client.url(99_999))]);
    expect(url).toContain('http');
    expect(error).toBeInstanceOf(ChatImagesError);
    expect(error).toMatchObject({ code: 'IMAGE_NOT_FOUND', isTemporary: false });
  });

  it('are refused to an outsider with a typed error', async () => {
    const client = clientOf(service, OUTSIDER);
    const error = await rejection(client.url(image));
    expect(error).toMatchObject({ code: 'FORBIDDEN', requestId: expect.stringMatching(/^[\da-f-]{36}$/) });
    expect(await rejection(client.list(APPOINTMENT))).toMatchObject({ code: 'FORBIDDEN', status: 403 });
  });

  it.each([
    ['behind', -5 * HOUR_MS],
    ['ahead', 5 * HOUR_MS],
  ])('live as long as the service says on a phone whose clock is hours %s', async (_, error) => {
    for (const exposesDate of [true, false]) {
      sent.clear();
      let passed = 0;
      const client = doctor({
        now: () => Date.now() + error + passed,
        // A page of another origin sees the header only where it is exposed.
        send: async (request) => {
          const response = await sent.send(request);
          return {
            ...response,
            header: (name) => (name === 'Date' && !exposesDate ? null : response.header(name)),
          };
        },
      });
      await client.url(image);
      await client.url(image);
      passed = 0.9 * HOUR_MS;
      await client.url(image);
      expect(sent.batches).toEqual([1]);
      expect(client.urlLifeMs(image)).toBeGreaterThan(0);
      passed = HOUR_MS;
      expect(client.urlLifeMs(image)).toBe(0);
      await client.url(image);
      expect(sent.batches).toEqual([1, 1]);
    }
  });

  it('are renewed once for all who wait', async () => {
    let passed = 0;
    const client = doctor({ now: () => Date.now() + passed });
    await client.url(image);
    passed = HOUR_MS;
    await Promise.all([
      client.url(image),
      client.url(image),
      Promise.resolve().then(() => client.url(image)),
    ]);
    expect(sent.batches).toEqual([1, 1]);
  });

  it('are renewed once for views that fail one after the other, also where a view spells them in its way', async () => {
    let passed = 0;
    const client = doctor({ now: () => Date.now() + passed });
    const url = await client.url(image);
    const askedAt = Date.now();
    // URLs of one second are the same.
    await eventually(() => Date.now() >= askedAt + 1000, 'the next second');
    passed = HOUR_MS;
    const renewed = await client.onExpired(image, url);
    expect(renewed).not.toBe(url);
    expect(await client.onExpired(image, url)).toBe(renewed);
    expect(await client.onExpired(image, url.replace('http://127.0.0.1', 'HTTP://127.000.000.001'))).toBe(
      renewed,
    );
    expect(sent.batches).toEqual([1, 1]);
  });

  it('work again after their end, with a life of seconds', async () => {
    await service.restart({ SIGNED_URL_EXPIRES_SECONDS: '2' });
    try {
      const client = doctor();
      const url = await client.url(image);
      await eventually(async () => (await fetch(url)).status === 403, 'the end of the URL');
      expect(client.urlLifeMs(image)).toBe(0);
      const renewed = await client.onExpired(image, url);
      expect((await fetch(renewed)).status).toBe(200);
      expect(sent.batches).toEqual([1, 1]);
      // The first renewal was for an end in order: the next end is renewed too.
      await eventually(async () => (await fetch(renewed)).status === 403, 'the end of the second URL');
      expect((await fetch(await client.onExpired(image, renewed))).status).toBe(200);
      expect(sent.batches).toEqual([1, 1, 1]);
    } finally {
      await service.restart({ SIGNED_URL_EXPIRES_SECONDS: '3600' });
    }
  });

  it('that did not show a picture are replaced once for all views, then an error, without a loop', async () => {
    const gone = await clientOf(service, PATIENT).upload(await photo(), { appointmentId: APPOINTMENT });
    const client = doctor();
    const url = await client.url(gone);
    const askedAt = Date.now();
    await service.app.get(StorageProvider).delete(gone.file_path);
    // URLs of one second are the same.
    await eventually(() => Date.now() >= askedAt + 1000, 'the next second');
    expect((await fetch(url)).status).toBe(404);

    const [second, same] = await Promise.all([client.onExpired(gone, url), client.onExpired(gone, url)]);
    expect(same).toBe(second);
    // A view that comes late gets what the others have.
    expect(await client.onExpired(gone, url)).toBe(second);
    for (let view = 0; view < 5; view += 1) {
      expect(await rejection(client.onExpired(gone, second))).toMatchObject({ code: 'IMAGE_NOT_SHOWN' });
      expect(await client.url(gone)).toBe(second);
    }
    expect(sent.batches).toEqual([1, 1]);
  });

  it('that a view spells in another way, or does not know, make no loop either', async () => {
    const client = doctor();
    await client.url(image);
    const outcomes: unknown[] = [];
    for (let view = 0; view < 5; view += 1) {
      outcomes.push(await client.onExpired(image, '').catch((error: unknown) => error));
    }
    expect(outcomes.slice(1)).toEqual(
      Array.from({ length: 4 }, () => expect.objectContaining({ code: 'IMAGE_NOT_SHOWN' })),
    );
    expect(sent.batches).toEqual([1, 1]);
  });

  it('of a picture whose row is gone are an error, without a loop', async () => {
    const gone = await clientOf(service, PATIENT).upload(await photo(), { appointmentId: APPOINTMENT });
    const client = doctor();
    const url = await client.url(gone);
    await service.database.query('DELETE FROM chat_images WHERE id = $1', [gone.id]);
    expect(await rejection(client.onExpired(gone, url))).toMatchObject({ code: 'IMAGE_NOT_FOUND' });
    expect(sent.batches).toEqual([1, 1]);
  });

  it('are tried again over a network that fails, for all who wait', async () => {
    let failures = 2;
    const client = doctor({
      send: (request) => (failures-- > 0 ? Promise.reject(new TypeError('no network')) : send(request)),
    });
    const urls = await Promise.all(images.map((each) => client.url(each)));
    expect(urls).toHaveLength(3);
    failures = Infinity;
    client.forget();
    const noTime = clientOf(service, DOCTOR, {
      send: () => Promise.reject(new TypeError('no network')),
      timing: { readRetryMs: 0 },
    });
    expect(await Promise.all(images.map((each) => rejection(noTime.url(each))))).toEqual(
      images.map(() => expect.objectContaining({ code: 'NETWORK_ERROR' })),
    );
  });

  it('are not in a list, whose pages follow each other by their cursors', async () => {
    const client = doctor();
    const first = await client.list(APPOINTMENT, { limit: 2 });
    expect(first.images).toHaveLength(2);
    const ids = first.images.map(({ id }) => id);
    for (let cursor = first.next_cursor; cursor !== null;) {
      const page = await client.list(APPOINTMENT, { limit: 2, cursor });
      ids.push(...page.images.map(({ id }) => id));
      cursor = page.next_cursor;
    }
    expect(ids).toEqual(expect.arrayContaining(images.map(({ id }) => id)));
    expect(ids).toEqual([...ids].sort((one, other) => other - one));
    expect(JSON.stringify(first)).not.toMatch(/signature/i);
  });
});
