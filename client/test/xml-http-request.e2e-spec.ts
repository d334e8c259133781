import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { JSDOM, VirtualConsole } from 'jsdom';
import { CuttingProxy } from '../../test/support/cutting-proxy.js';
import { eventually } from '../../test/support/eventually.js';
import { picture } from '../../test/support/pictures.js';
import { APPOINTMENT, OUTSIDER, PATIENT, TestApp } from '../../test/support/test-app.js';
import type { Progress } from '../src/index.js';
import { clientOf, rejection, storedImages } from './support.js';

const PAGE = 'https://app.example.com';

/** Globals of a page. Node.js lacks them, or has its own versions. */
const PAGE_GLOBALS = ['XMLHttpRequest', 'FormData', 'Blob', 'File'] as const;

describe('an upload by XMLHttpRequest, from a page of another origin', () => {
  let service: TestApp;
  let network: CuttingProxy;
  // Without a console: a cut connection is no news.
  const { window } = new JSDOM('', { url: PAGE, virtualConsole: new VirtualConsole() });
  const ofNode = Object.fromEntries(PAGE_GLOBALS.map((name) => [name, globalThis[name]]));

  beforeAll(async () => {
    service = await TestApp.start({ CORS_ORIGINS: PAGE });
    network = await CuttingProxy.start({ host: '127.0.0.1', port: service.settings.port });
    Object.assign(globalThis, Object.fromEntries(PAGE_GLOBALS.map((name) => [name, window[name]])));
  });

  afterAll(async () => {
    Object.assign(globalThis, ofNode);
    window.close();
    await network.stop();
    await service.stop();
  });

  const patient = (timing = {}): ReturnType<typeof clientOf> =>
    clientOf(service, PATIENT, { baseUrl: `http://${network.address}`, timing });

  const photo = async (width = 2000, height = 1000): Promise<File> =>
    new File([new Uint8Array(await picture('png', width, height))], 'rash.png');

  it('tells its progress in bytes of the picture', async () => {
    const file = await photo();
    const progress: Progress[] = [];
    const image = await patient().upload(file, {
      appointmentId: APPOINTMENT,
      onProgress: (step) => progress.push(step),
    });
    expect(image).toMatchObject({ name: 'rash.png', width: 2000, height: 1000 });
    // The upload's own event, and the end.
    expect(progress.length).toBeGreaterThanOrEqual(2);
    expect(progress.every(({ total }) => total === file.size)).toBe(true);
    const loaded = progress.map((step) => step.loaded);
    expect(loaded).toEqual([...loaded].sort((one, other) => one - other));
    expect(loaded.at(-1)).toBe(file.size);
  });

  it('is sent again when its connection is cut, and becomes one image', async () => {
    const before = await storedImages(service);
    network.fail({ how: 'cut within', at: 'POST /api/upload', bytes: 100_000 });
    const upload = patient().upload(await photo(), {
      appointmentId: APPOINTMENT,
      onProgress: () => undefined,
    });
    await eventually(() => network.hits >= 2, 'two tries');
    network.pass();
    await upload;
    expect(await storedImages(service)).toBe(before + 1);
  });

  it('ends when its signal aborts', async () => {
    network.fail({ how: 'hold', at: 'POST /api/upload' });
    const controller = new AbortController();
    const { signal } = controller;
    const upload = patient().upload(await photo(20, 10), {
      appointmentId: APPOINTMENT,
      onProgress: () => undefined,
      signal,
    });
    await eventually(() => network.hits === 1, 'the request');
    controller.abort();
    expect(await rejection(upload)).toMatchObject({ name: 'AbortError' });
    await eventually(() => network.givenUp > 0, 'the end of the connection');
    network.pass();
  });

  it('ends with a typed error, its code and its request', async () => {
    const error = await rejection(
      clientOf(service, OUTSIDER).upload(await photo(), {
        appointmentId: APPOINTMENT,
        onProgress: () => undefined,
      }),
    );
    expect(error).toMatchObject({
      code: 'FORBIDDEN',
      status: 403,
      requestId: expect.stringMatching(/^[\da-f-]{36}$/),
    });
  });

  it('can read how long to wait', async () => {
    await service.restart({ RATE_LIMIT_UPLOADS_PER_MINUTE: '1' });
    const user = await service.addPatient();
    const client = clientOf(service, user);
    const options = { appointmentId: user, onProgress: () => undefined, retryMs: 900 };
    await client.upload(await photo(), options);
    const error = await rejection(client.upload(await photo(), options));
    expect(error).toMatchObject({ code: 'TOO_MANY_REQUESTS', retryAfterMs: expect.any(Number) });
  });
});
