import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import 'fake-indexeddb/auto';
import { CuttingProxy } from '../../test/support/cutting-proxy.js';
import { eventually } from '../../test/support/eventually.js';
import { APPOINTMENT, DOCTOR, PATIENT, TestApp } from '../../test/support/test-app.js';
import {
  type ChatImagesOptions,
  indexedDbStorage,
  memoryStorage,
  type QueuedUpload,
  UploadQueue,
  type UploadStorage,
} from '../src/index.js';
import { clientOf, photo, SentRequests, storedImages } from './support.js';

const CONVERSATION = { appointmentId: APPOINTMENT };
const HOUR_MS = 3_600_000;
/** Only an event ends a pause. */
const LONG_PAUSES = { firstPauseMs: HOUR_MS, longestPauseMs: HOUR_MS };

describe.each<[name: string, makeStorage: (test: number) => UploadStorage]>([
  ['memory', memoryStorage],
  ['IndexedDB', (test) => indexedDbStorage(`uploads of test ${test}`)],
])('a queue of uploads in %s', (_, makeStorage) => {
  let service: TestApp;
  let network: CuttingProxy;
  let storage: UploadStorage;
  let sent: SentRequests;
  let before: number;
  let tests = 0;
  const queues: UploadQueue[] = [];

  beforeAll(async () => {
    service = await TestApp.start();
    network = await CuttingProxy.start({ host: '127.0.0.1', port: service.settings.port });
  });

  afterAll(async () => {
    await network.stop();
    await service.stop();
  });

  beforeEach(async () => {
    storage = makeStorage((tests += 1));
    sent = new SentRequests();
    before = await storedImages(service);
  });

  afterEach(() => {
    network.pass();
    for (const queue of queues.splice(0)) queue.stop();
  });

  /** A queue of a page, and what it has told. */
  function openPage(options: Partial<ChatImagesOptions> = {}): { queue: UploadQueue; told: QueuedUpload[] } {
    const baseUrl = `http://${network.address}`;
    const queue = new UploadQueue(
      clientOf(service, PATIENT, { baseUrl, send: sent.send, ...options }),
      storage,
    );
    const told: QueuedUpload[] = [];
    queue.subscribe((upload) => told.push(upload));
    queues.push(queue);
    return { queue, told };
  }

  const uploaded = (told: readonly QueuedUpload[]): QueuedUpload[] =>
    told.filter(({ state }) => state === 'uploaded');

  const empty = (queue: UploadQueue): Promise<true> =>
    eventually(() => queue.uploads.length === 0, 'the end of all uploads');

  it('uploads its pictures in their order, tells each step, and keeps none', async () => {
    const { queue, told } = openPage();
    const files = [await photo('1.png'), await photo('2.png')];
    for (const file of files) await queue.add(file, CONVERSATION);
    await empty(queue);
    expect(uploaded(told).map(({ image }) => image?.name)).toEqual(['1.png', '2.png']);
    const [first] = uploaded(told);
    expect(new Set(told.filter(({ key }) => key === first?.key).map(({ state }) => state))).toEqual(
      new Set(['waiting', 'uploading', 'uploaded']),
    );
    const size = files[0]?.size;
    expect(told).toContainEqual(
      expect.objectContaining({
        key: first?.key,
        state: 'uploading',
        progress: { loaded: size, total: size },
      }),
    );
    expect(await storage.all()).toEqual([]);
    expect(await storedImages(service)).toBe(before + 2);
  });

  it('goes on after a reload with the same key: a picture whose answer was lost becomes one image', async () => {
    network.fail({ how: 'hold answers', at: 'POST /api/upload' });
    const page = openPage();
    const first = await page.queue.add(await photo('first.png'), CONVERSATION);
    const second = await page.queue.add(await photo('second.png'), CONVERSATION);
    await eventually(async () => (await storedImages(service)) === before + 1, 'the stored picture');
    page.queue.stop();
    expect(uploaded(page.told)).toEqual([]);
    network.pass();

    const { queue, told } = openPage();
    await queue.start();
    await empty(queue);
    expect(uploaded(told).map(({ key, image }) => [key, image?.name])).toEqual([
      [first.key, 'first.png'],
      [second.key, 'second.png'],
    ]);
    expect(sent.idempotencyKeys).toEqual([first.key, first.key, second.key]);
    expect(await storedImages(service)).toBe(before + 2);
  });

  it('goes on when the network is back, and tells why it waits', async () => {
    network.fail({ how: 'refuse' });
    const { queue, told } = openPage();
    await queue.add(await photo(), CONVERSATION);
    await queue.add(await photo(), CONVERSATION);
    await eventually(() => sent.all.length >= 4, 'several tries');
    expect(queue.uploads.map(({ state }) => state)).not.toContain('failed');
    expect(told).toContainEqual(
      expect.objectContaining({
        state: 'waiting',
        error: expect.objectContaining({ code: 'NETWORK_ERROR' }),
      }),
    );
    network.pass();
    await empty(queue);
    expect(new Set(sent.idempotencyKeys).size).toBe(2);
    expect(await storedImages(service)).toBe(before + 2);
  });

  it('goes on at once when the page hears that it is online, or is told to', async () => {
    const page = new EventTarget();
    const { addEventListener, removeEventListener } = globalThis;
    globalThis.addEventListener = page.addEventListener.bind(page);
    globalThis.removeEventListener = page.removeEventListener.bind(page);
    try {
      const { queue } = openPage({ timing: LONG_PAUSES });
      for (const wake of [() => page.dispatchEvent(new Event('online')), () => queue.resume()]) {
        network.fail({ how: 'refuse' });
        await queue.add(await photo(), CONVERSATION);
        await eventually(() => queue.uploads[0]?.error !== undefined, 'the failure');
        network.pass();
        wake();
        await empty(queue);
      }
      expect(await storedImages(service)).toBe(before + 2);
    } finally {
      Object.assign(globalThis, { addEventListener, removeEventListener });
    }
  });

  it('does not let a refused picture stop the others, and keeps it until a person decides', async () => {
    const { queue, told } = openPage();
    const refused = await queue.add(new File(['no picture'], 'notes.txt'), CONVERSATION);
    await queue.add(await photo(), CONVERSATION);
    await eventually(() => uploaded(told).length === 1 && queue.uploads.length === 1, 'the other picture');
    expect(queue.uploads).toEqual([
      expect.objectContaining({
        key: refused.key,
        state: 'failed',
        error: expect.objectContaining({ code: 'INVALID_IMAGE' }),
      }),
    ]);
    const tries = sent.all.length;
    queue.retry(refused.key);
    await eventually(() => sent.all.length === tries + 1 && queue.uploads[0]?.state === 'failed', 'the try');
    await queue.remove(refused.key);
    expect([queue.uploads, await storage.all(), told.at(-1)?.state]).toEqual([[], [], 'removed']);
  });

  it('waits for a log-in', async () => {
    let loggedIn = false;
    const token = (): string => service.token(loggedIn ? PATIENT : 999_999);
    const { queue } = openPage({ token, timing: LONG_PAUSES });
    await queue.add(await photo(), CONVERSATION);
    await eventually(() => queue.uploads[0]?.error !== undefined, 'the refusal');
    expect(queue.uploads[0]).toMatchObject({ state: 'waiting', error: { code: 'UNAUTHENTICATED' } });
    loggedIn = true;
    queue.resume();
    await empty(queue);
  });

  it('leaves a picture that is removed while it is on its way', async () => {
    network.fail({ how: 'hold', at: 'POST /api/upload' });
    const { queue, told } = openPage();
    const upload = await queue.add(await photo(), CONVERSATION);
    await eventually(() => network.hits === 1, 'the request');
    await queue.remove(upload.key);
    await eventually(() => network.givenUp > 0, 'the end of the connection');
    network.pass();
    await queue.add(await photo('other.png'), CONVERSATION);
    await empty(queue);
    // The service may have got the removed picture whole. The next test counts what is stored.
    await eventually(() => network.underWay === 0, 'the answer to the removed picture');
    expect(uploaded(told).map(({ image }) => image?.name)).toEqual(['other.png']);
    expect(await storage.all()).toEqual([]);
  });

  it('can be stopped and started', async () => {
    network.fail({ how: 'refuse' });
    const { queue } = openPage({ timing: LONG_PAUSES });
    await queue.add(await photo(), CONVERSATION);
    await eventually(() => queue.uploads[0]?.error !== undefined, 'the failure');
    queue.stop();
    network.pass();
    await queue.start();
    await empty(queue);
    expect(await storedImages(service)).toBe(before + 1);
  });

  it('keeps what the doctor of the conversation then sees', async () => {
    const { queue, told } = openPage();
    const file = await photo();
    await queue.add(file, CONVERSATION);
    await empty(queue);
    const image = uploaded(told)[0]?.image;
    const url = await clientOf(service, DOCTOR).url(Number(image?.id));
    expect(Buffer.from(await (await fetch(url)).arrayBuffer())).toEqual(
      Buffer.from(await file.arrayBuffer()),
    );
  });
});
