import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Locator, Page, Route } from 'playwright-core';
import sharp from 'sharp';
import { samplePictures } from '../../src/dev/sample-pictures.js';
import { hasChromium } from '../support/chromium.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { eventually } from '../support/eventually.js';
import { phonePhoto, picture } from '../support/pictures.js';
import { DOCTOR, PATIENT, TestApp } from '../support/test-app.js';
import { LIMIT_MS, Pages, phone, send, shown, violations } from './pages.js';

/** Where the picture of the README is written to, if it is wanted. */
const { DEMO_PICTURE } = process.env;
const MAX_PICTURE_BYTES = 200_000;

const onChromium = hasChromium() ? describe : describe.skip;

onChromium('in Chromium (skipped without it)', () => {
  let service: TestApp;
  let pages: Pages;

  beforeAll(async () => {
    service = await TestApp.start({ DEMO_ENABLED: 'true' });
    pages = await Pages.start();
  });

  afterEach(() => pages.closeWithoutComplaint());

  afterAll(async () => {
    await pages.stop();
    await service.stop();
  });

  const open = (options: Parameters<Pages['open']>[1] = {}): Promise<Page> =>
    pages.open(`${service.url}/demo`, options);

  const uploaded = async (): Promise<{ id: number; media_url: string }> => {
    const response = await service.upload(await picture('png'));
    return ((await response.json()) as { data: { id: number; media_url: string } }).data;
  };

  describe('the demo', () => {
    it('takes pictures that are photographed, pasted and dropped', async () => {
      const page = await open({ permissions: ['clipboard-read', 'clipboard-write'] });
      const [patient, doctor] = [phone(page, 'Patient'), phone(page, 'Doctor')];
      expect(await patient.getByLabel('Take a photo').getAttribute('capture')).toBe('environment');
      await send(patient, 'photographed.png', await picture('png'), 'Take a photo');
      await shown(doctor, 'photographed.png', 'the patient').waitFor();

      await page.getByRole('region', { name: 'Chat of the doctor' }).focus();
      await page.evaluate(
        async (base64) => {
          const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
          const png = new Blob([bytes], { type: 'image/png' });
          await navigator.clipboard.write([new ClipboardItem({ 'image/png': png })]);
        },
        (await picture('png')).toString('base64'),
      );
      await page.keyboard.press('Control+V');
      await shown(patient, 'image.png', 'the doctor').waitFor();

      const folder = await mkdtemp(join(tmpdir(), 'dropped-pictures-'));
      try {
        const file = join(folder, 'dropped.png');
        await writeFile(file, await picture('png'));
        await drop(patient, file);
        await shown(doctor, 'dropped.png', 'the patient').waitFor();
      } finally {
        await rm(folder, { recursive: true });
      }
    });

    it('tells in words what is taken out of a file, and who has opened the picture', async () => {
      const page = await open();
      const patient = phone(page, 'Patient');
      await send(patient, 'phone.jpg', await phonePhoto());
      await patient.getByText('the place (55.039° N, 8.457° E), the camera (Nokia Lumia 820)').waitFor();
      await shown(phone(page, 'Doctor'), 'phone.jpg', 'the patient').waitFor();
      await patient.getByText('Who has opened it').last().click();
      await patient.getByText(/The doctor: the thumbnail, at/).waitFor();
    });

    it('sends pictures that wait for the network by itself, also after a reload', async () => {
      const page = await open();
      const [patient, doctor] = [phone(page, 'Patient'), phone(page, 'Doctor')];
      const network = patient.getByRole('switch', { name: 'Network' });
      await network.click();
      await send(patient, 'later.png', await picture('png'));
      await patient.getByText('Picture later.png: Waits for the network').waitFor();
      // The picture is there as its thumb hash.
      const placeholder = patient.locator('[data-upload] canvas');
      await eventually(
        () => placeholder.evaluate((canvas: HTMLCanvasElement) => canvas.width > 1),
        'the thumb hash',
        LIMIT_MS,
      );
      expect(await shown(doctor, 'later.png', 'the patient').count()).toBe(0);
      await network.click();
      await shown(doctor, 'later.png', 'the patient').waitFor();

      await network.click();
      await send(patient, 'reload.png', await picture('png'));
      await patient.getByText('Waits for the network').waitFor();
      await page.reload();
      await shown(doctor, 'reload.png', 'the patient').waitFor();
    });

    it('makes one picture of an upload whose connection is cut twice', async () => {
      const network = await CuttingProxy.start({ host: '127.0.0.1', port: service.settings.port });
      try {
        const page = await pages.open(`http://${network.address}/demo`, { expected: /net::ERR/ });
        await phone(page, 'Patient').getByRole('img').first().waitFor();
        network.fail({ how: 'cut within', at: 'POST /api/upload', bytes: 100_000 });
        await send(phone(page, 'Patient'), 'cut.png', await picture('png', 800, 600));
        await eventually(() => network.hits >= 2, 'two cuts', LIMIT_MS);
        network.pass();
        await shown(phone(page, 'Doctor'), 'cut.png', 'the patient').waitFor();
        const rows = await service.database.query<unknown[]>(
          'SELECT FROM chat_images WHERE original_name = $1',
          ['cut.png'],
        );
        expect(rows).toHaveLength(1);
        // A page whose network goes away has much to complain of.
        await pages.close();
      } finally {
        await network.stop();
      }
    });

    it.each([
      ['wide', { viewport: { width: 1100, height: 900 } }],
      [
        'on 320 pixels, in the dark, with reduced motion',
        { viewport: { width: 320, height: 640 }, colorScheme: 'dark', reducedMotion: 'reduce' },
      ],
    ] as const)('has nothing that axe finds: %s', async (_, options) => {
      const page = await open({ ...options, expected: /\b403\b/ });
      const view = phone(page, 'Patient')
        .getByRole('button', { name: /^Open picture/ })
        .last();
      await view.locator('img').waitFor();
      expect(await violations(page)).toEqual([]);
      await view.press('Enter');
      await page.getByRole('dialog').getByRole('img').waitFor();
      expect(await violations(page)).toEqual([]);
      await page.keyboard.press('Escape');
      await page.getByRole('tab', { name: 'Patient and doctor' }).press('ArrowRight');
      await page.getByRole('button', { name: 'Try everything' }).press('Enter');
      await page.getByText('Refused: ').nth(4).waitFor();
      expect(await violations(page)).toEqual([]);
      expect(await page.evaluate('document.documentElement.scrollWidth <= innerWidth')).toBe(true);
    });

    it('loads sixty pictures as one scrolls, and nothing on the screen moves', async () => {
      for (let sent = 0; sent < 60; sent += 6)
        await Promise.all(
          Array.from({ length: 6 }, async () => service.upload(await picture('png', 40, 30))),
        );
      const page = await open();
      const chat = page.getByRole('region', { name: 'Chat of the doctor' });
      const messages = chat.locator('li.message');
      await messages.last().locator('img').waitFor();
      await page.evaluate(() => {
        const shifts: PerformanceEntry[] = [];
        Object.assign(globalThis, { shifts });
        new PerformanceObserver((list) => shifts.push(...list.getEntries())).observe({
          type: 'layout-shift',
        });
      });
      // Older pictures come while the chat rests: Chromium counts a scroll in the frame of an insertion as a shift.
      const held: Route[] = [];
      await page.route(/[?&]cursor=/, (route) => void held.push(route));
      await chat.hover();
      for (const count of [40, 60]) {
        const older = await eventually(async () => {
          await page.mouse.wheel(0, -300);
          return held.shift();
        });
        await rest(chat);
        await older.continue();
        await messages.nth(count - 1).waitFor();
        await rest(chat);
      }
      expect(await messages.count()).toBe(60);
      expect(await page.evaluate('shifts.map((shift) => shift.toJSON())')).toEqual([]);
    });

    (DEMO_PICTURE ? it : it.skip)(
      'draws the picture of the README (skipped without DEMO_PICTURE)',
      async () => {
        const drawn = await TestApp.start({ DEMO_ENABLED: 'true', SIGNED_URL_EXPIRES_SECONDS: '60' });
        try {
          const [morning, night] = await samplePictures();
          await drawn.upload(morning.bytes, { name: morning.name });
          await drawn.upload(night.bytes, { name: night.name, as: DOCTOR });
          const page = await pages.open(`${drawn.url}/demo`, { viewport: { width: 1000, height: 820 } });
          await send(phone(page, 'Patient'), 'phone-photo.jpg', await phonePhoto());
          await phone(page, 'Patient').getByText('Taken out of the file').waitFor();
          await shown(phone(page, 'Doctor'), 'phone-photo.jpg', 'the patient').waitFor();
          await phone(page, 'Patient').getByText('Who has opened it').last().click();
          await phone(page, 'Patient')
            .getByText(/The doctor: the thumbnail/)
            .waitFor();
          const drawing = await page.screenshot({ animations: 'disabled' });
          await sharp(drawing)
            .png({ palette: true, quality: 90, effort: 10 })
            .toFile(DEMO_PICTURE ?? '');
          expect(statSync(DEMO_PICTURE ?? '').size).toBeLessThan(MAX_PICTURE_BYTES);
          await pages.close();
        } finally {
          await drawn.stop();
        }
      },
    );
  });

  it('the Swagger page lets QA authorize, ask for a signed URL, and open it', async () => {
    const { id } = await uploaded();
    const page = await pages.open(`${service.url}/api/docs`, {
      // The page that Chromium makes for a picture has a style, which the picture's policy refuses.
      expected: /Applying inline style .*local-storage/,
    });
    await page.locator('.btn.authorize').first().click();
    await page.locator('.auth-container input').fill(service.token(PATIENT));
    await page.locator('.auth-btn-wrapper .authorize').click();
    await page.locator('.btn-done').click();
    const operation = page.locator('[id$="-getSignedUrl"]');
    await operation.locator('.opblock-summary-control').click();
    await operation.locator('input').first().fill(String(id));
    await operation.locator('.execute').click();
    const popup = page.waitForEvent('popup');
    await operation.getByRole('link', { name: 'Open data.url' }).click();
    const opened = await popup;
    await opened.waitForLoadState();
    expect(await opened.locator('img').evaluate((view: HTMLImageElement) => view.naturalWidth)).toBe(64);
  });

  it.each([
    ['1', 64],
    ['2', 64],
    ['3', 64],
    ['4', 0],
  ])(
    'in phase %s of the migration, a page with the stable address alone shows %i columns',
    async (phase, columns) => {
      await service.restart({ MIGRATION_PHASE: phase });
      const { media_url: address } = await uploaded();
      const app = createServer((_, response) =>
        response
          .setHeader('content-type', 'text/html')
          .end(`<link rel="icon" href="data:,"><img src="${address}" alt="picture">`),
      ).listen(0, '127.0.0.1');
      await once(app, 'listening');
      try {
        const page = await pages.open(
          `http://localhost:${(app.address() as AddressInfo).port}/`,
          columns === 0 ? { expected: /NotSameOrigin/ } : {},
        );
        expect(await page.locator('img').evaluate((view: HTMLImageElement) => view.naturalWidth)).toBe(
          columns,
        );
        await pages.close();
      } finally {
        app.closeAllConnections();
        app.close();
      }
    },
  );
});

/** Waits until an element has not scrolled for ten frames. */
function rest(element: Locator): Promise<void> {
  return element.evaluate(async (scroller) => {
    for (let [frames, last] = [0, NaN]; frames < 10; frames = scroller.scrollTop === last ? frames + 1 : 0) {
      last = scroller.scrollTop;
      await new Promise(requestAnimationFrame);
    }
  });
}

/** Drops a file, as from the folder of a desktop. */
async function drop(onto: Locator, file: string): Promise<void> {
  const page = onto.page();
  const box = await onto.boundingBox();
  if (!box) throw new Error('There is nothing to drop the file onto.');
  const session = await page.context().newCDPSession(page);
  for (const type of ['dragEnter', 'dragOver', 'drop'] as const)
    await session.send('Input.dispatchDragEvent', {
      type,
      x: box.x + box.width / 2,
      y: box.y + box.height / 2,
      data: { items: [], files: [file], dragOperationsMask: 1 },
    });
}
