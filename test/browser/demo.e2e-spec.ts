import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { AxeResults } from 'axe-core';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import type { Browser, BrowserContextOptions, Locator, Page, Request } from 'playwright-core';
import sharp from 'sharp';
import { samplePictures } from '../../src/dev/sample-pictures.js';
import { hasChromium, startChromium } from '../support/chromium.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { eventually } from '../support/eventually.js';
import { phonePhoto, picture } from '../support/pictures.js';
import { DOCTOR, PATIENT, STORAGES, TestApp } from '../support/test-app.js';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** The longest wait for a condition, on a machine that has much else to do. */
const LIMIT_MS = 60_000;

/** Where the picture of the README is written to, if it is wanted. */
const { DEMO_PICTURE } = process.env;
const MAX_PICTURE_BYTES = 200_000;

type Handed = { readonly data: readonly { readonly url: string }[] };

const onChromium = hasChromium() ? describe : describe.skip;

onChromium.each(STORAGES)(
  'the demo in Chromium (skipped without it), on the $name storage',
  ({ name: storage, environment }) => {
    if (!environment) {
      it.skip('shows the chat (skipped without S3_ENDPOINT)', () => undefined);
      return;
    }

    let service: TestApp;
    let browser: Browser;
    /** What pages have written to their consoles, and was not expected. */
    const complaints: string[] = [];

    beforeAll(async () => {
      service = await TestApp.start({ ...environment, DEMO_ENABLED: 'true' });
      browser = await startChromium();
    });

    afterAll(async () => {
      await browser.close();
      await service.stop();
    });

    afterEach(async () => {
      for (const context of browser.contexts()) await context.close();
      expect(complaints.splice(0)).toEqual([]);
    });

    /** @param isExpected tells the complaints that belong to the test */
    const open = async (
      options: BrowserContextOptions = {},
      isExpected = (_text: string): boolean => false,
      origin = service.url,
    ): Promise<Page> => {
      const page = await browser.newPage(options);
      page.setDefaultTimeout(LIMIT_MS);
      page.on('console', (message) => {
        if (['error', 'warning'].includes(message.type()) && !isExpected(message.text()))
          complaints.push(message.text());
      });
      page.on('pageerror', (error) => complaints.push(String(error)));
      await page.goto(`${origin}/demo`);
      return page;
    };

    const phone = (page: Page, role: 'Patient' | 'Doctor'): Locator =>
      page.getByRole('region', { name: role, exact: true });

    const send = (from: Locator, name: string, buffer: Buffer): Promise<void> =>
      from.getByLabel('Choose pictures').setInputFiles({ name, mimeType: 'image/png', buffer });

    const shown = (on: Locator, name: string, sender: string): Locator =>
      on.getByRole('button', { name: `Open picture ${name} from ${sender}` }).locator('img');

    it('shows a picture of one side on the other, and each of its pixels when it is opened', async () => {
      const page = await open();
      const bytes = await picture('png', 320, 200);
      await send(phone(page, 'Patient'), 'rash.png', bytes);
      await shown(phone(page, 'Patient'), 'rash.png', 'you').waitFor();
      await shown(phone(page, 'Doctor'), 'rash.png', 'the patient').click();
      const whole = page.getByRole('dialog').getByRole('img');
      await eventually(
        () => whole.evaluate((view: HTMLImageElement) => view.naturalWidth === 320),
        'the picture',
      );
      const screenshot = await whole.screenshot({ animations: 'disabled' });
      const raw = (image: Buffer): Promise<Buffer> => sharp(image).removeAlpha().raw().toBuffer();
      expect((await raw(screenshot)).equals(await raw(bytes))).toBe(true);
      await page.keyboard.press('Escape');
      await page.getByRole('dialog').waitFor({ state: 'hidden' });
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

    it('refuses everything to the outsider, in words', async () => {
      const page = await open({}, (text) => text.includes('403'));
      await phone(page, 'Patient').getByRole('img').first().waitFor();
      await page.getByRole('tab', { name: 'Outsider' }).click();
      await page.getByRole('button', { name: 'Try everything' }).click();
      const outcomes = page.getByRole('tabpanel').getByRole('listitem');
      await eventually(async () => (await outcomes.getByText('Refused: ').count()) === 5, 'five refusals');
      expect(await outcomes.getByText('Granted').count()).toBe(0);
    });

    it('sends pictures that wait for the network by itself, also after a reload', async () => {
      const page = await open();
      await phone(page, 'Patient').getByRole('switch', { name: 'Network' }).click();
      await send(phone(page, 'Patient'), 'later.png', await picture('png'));
      await phone(page, 'Patient').getByText('Waits for the network').waitFor();
      expect(await shown(phone(page, 'Doctor'), 'later.png', 'the patient').count()).toBe(0);
      await phone(page, 'Patient').getByRole('switch', { name: 'Network' }).click();
      await shown(phone(page, 'Doctor'), 'later.png', 'the patient').waitFor();

      await phone(page, 'Patient').getByRole('switch', { name: 'Network' }).click();
      await send(phone(page, 'Patient'), 'reload.png', await picture('png'));
      await phone(page, 'Patient').getByText('Waits for the network').waitFor();
      await page.reload();
      await shown(phone(page, 'Doctor'), 'reload.png', 'the patient').waitFor();
    });

    it('renews URLs of 3 seconds in one request for all pictures, and never shows an empty view', async () => {
      await service.restart({ SIGNED_URL_EXPIRES_SECONDS: '3' });
      try {
        for (let sent = 0; sent < 2; sent += 1) await service.upload(await picture('png'));
        const page = await open({ viewport: { width: 1100, height: 900 } }, (text) => text.includes('403'));
        const handed: Promise<string[]>[] = [];
        page.on('requestfinished', (request) => {
          if (isOf(DOCTOR, request)) handed.push(urlsIn(request));
        });
        const view = phone(page, 'Doctor')
          .getByRole('button', { name: /^Open picture/ })
          .locator('img')
          .last();
        await view.waitFor();
        const sources = new Set<string>();
        await view.evaluate((image: HTMLImageElement) => {
          const empty: string[] = [];
          Object.assign(globalThis, { empty });
          new MutationObserver(() => {
            if (!image.complete || image.naturalWidth === 0) empty.push(image.src);
          }).observe(image, { attributes: true });
        });
        await eventually(
          async () => sources.add((await view.getAttribute('src')) ?? '').size >= 4,
          'three renewals',
          LIMIT_MS,
        );
        expect(await page.evaluate('empty')).toEqual([]);
        const requests = await Promise.all(handed);
        const [last = ''] = [...sources].slice(-1);
        // Each URL came in a request of its own, with those of the other pictures on the screen.
        const ofView = requests.filter((urls) => urls.some((url) => pathOf(url) === pathOf(last)));
        expect(new Set(ofView.flat().filter((url) => pathOf(url) === pathOf(last))).size).toBe(ofView.length);
        expect(Math.max(...ofView.map((urls) => urls.length))).toBeGreaterThan(1);
        expect(ofView.length).toBeLessThanOrEqual(sources.size + 1);

        await phone(page, 'Doctor').getByRole('button', { name: 'Let it expire' }).last().click();
        await phone(page, 'Doctor').getByText('The storage has refused the expired URL').waitFor();
        await view.waitFor();
      } finally {
        // A page that asks a service that restarts has much to complain of.
        for (const context of browser.contexts()) await context.close();
        await service.restart({ SIGNED_URL_EXPIRES_SECONDS: '3600' });
      }
    });

    it('has nothing that axe finds: wide, on 320 pixels, in the dark, and with an opened picture', async () => {
      for (const options of [
        { viewport: { width: 1100, height: 900 } },
        { viewport: { width: 320, height: 640 }, colorScheme: 'dark', reducedMotion: 'reduce' },
      ] as const) {
        const page = await open(options, (text) => text.includes('403'));
        const view = phone(page, 'Patient')
          .getByRole('button', { name: /^Open picture/ })
          .last();
        await view.locator('img').waitFor();
        expect(await violations(page)).toEqual([]);
        await view.click();
        await page.getByRole('dialog').getByRole('img').waitFor();
        expect(await violations(page)).toEqual([]);
        await page.keyboard.press('Escape');
        await page.getByRole('tab', { name: 'Patient and doctor' }).press('ArrowRight');
        await page.getByRole('button', { name: 'Try everything' }).press('Enter');
        await page.getByText('Refused: ').nth(4).waitFor();
        expect(await violations(page)).toEqual([]);
        expect(await page.evaluate('document.documentElement.scrollWidth <= innerWidth')).toBe(true);
      }
    });

    it('loads sixty pictures as one scrolls, and nothing on the screen moves', async () => {
      for (let sent = 0; sent < 60; sent += 6)
        await Promise.all(
          Array.from({ length: 6 }, async () => service.upload(await picture('png', 40, 30))),
        );
      const page = await open();
      const chat = page.getByRole('region', { name: 'Chat of the doctor' });
      const messages = chat.locator('li.message');
      await messages.first().waitFor();
      for (let count = await messages.count(); count < 60; count = await messages.count()) {
        const oldest = messages.first();
        const id = await oldest.getAttribute('data-image');
        const moved = await chat.evaluate(
          async (scroller, [image]) => {
            const message = scroller.querySelector(`[data-image="${image ?? ''}"]`);
            scroller.scrollTop = 0;
            const before = message?.getBoundingClientRect().top ?? NaN;
            await new Promise((resolve) => {
              const look = (): unknown =>
                scroller.querySelector('li.message') === message
                  ? requestAnimationFrame(look)
                  : resolve(undefined);
              look();
            });
            return Math.abs((message?.getBoundingClientRect().top ?? NaN) - before);
          },
          [id],
        );
        expect(moved).toBeLessThanOrEqual(1);
      }
      expect(await messages.count()).toBeGreaterThanOrEqual(60);
    });

    if (storage !== 'local') return;

    it('makes one picture of an upload whose connection is cut twice', async () => {
      const network = await CuttingProxy.start({ host: '127.0.0.1', port: service.settings.port });
      try {
        const page = await open({}, (text) => text.includes('net::ERR'), `http://${network.address}`);
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
      } finally {
        await network.stop();
      }
    });

    it.each([
      ['1', true],
      ['2', true],
      ['3', true],
      ['4', false],
    ] as const)(
      'in phase %s, a page with the stable address alone shows the picture: %s',
      async (phase, shows) => {
        await service.restart({ MIGRATION_PHASE: phase });
        const { data } = (await (await service.upload(await picture('png'))).json()) as {
          data: { media_url: string };
        };
        const app = createServer((_, response) =>
          response
            .setHeader('content-type', 'text/html')
            .end(`<link rel="icon" href="data:,"><img src="${data.media_url}" alt="picture">`),
        ).listen(0, '127.0.0.1');
        await once(app, 'listening');
        const page = await browser.newPage();
        await page.goto(`http://localhost:${(app.address() as AddressInfo).port}/`, { waitUntil: 'load' });
        const width = await page.locator('img').evaluate((view: HTMLImageElement) => view.naturalWidth);
        await page.close();
        app.close();
        expect(width).toBe(shows ? 64 : 0);
      },
    );

    it('has a Swagger page on which QA authorizes, asks for a signed URL, and opens it', async () => {
      const { data } = (await (await service.upload(await picture('png'))).json()) as {
        data: { id: number };
      };
      const page = await browser.newPage();
      page.setDefaultTimeout(LIMIT_MS);
      page.on('pageerror', (error) => complaints.push(String(error)));
      await page.goto(`${service.url}/api/docs`);
      await page.locator('.btn.authorize').first().click();
      await page.locator('.auth-container input').fill(service.token(PATIENT));
      await page.locator('.auth-btn-wrapper .authorize').click();
      await page.locator('.btn-done').click();
      const operation = page.locator('[id$="-getSignedUrl"]');
      await operation.locator('.opblock-summary-control').click();
      await operation.locator('input').first().fill(String(data.id));
      await operation.locator('.execute').click();
      const popup = page.waitForEvent('popup');
      await operation.getByRole('link', { name: 'Open data.url' }).click();
      const opened = await popup;
      await opened.waitForLoadState();
      expect(await opened.locator('img').evaluate((view: HTMLImageElement) => view.naturalWidth)).toBe(64);
    });

    (DEMO_PICTURE ? it : it.skip)(
      'draws the picture of the README (skipped without DEMO_PICTURE)',
      async () => {
        const drawn = await TestApp.start({ DEMO_ENABLED: 'true', SIGNED_URL_EXPIRES_SECONDS: '60' });
        try {
          const [morning, night] = await samplePictures();
          await drawn.upload(morning.bytes, { name: morning.name });
          await drawn.upload(night.bytes, { name: night.name, as: DOCTOR });
          const page = await open({ viewport: { width: 1000, height: 820 } }, () => false, drawn.url);
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
        } finally {
          for (const context of browser.contexts()) await context.close();
          await drawn.stop();
        }
      },
    );
  },
);

/** What axe finds, in a few words each. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  const results = await page.evaluate<AxeResults>('axe.run()');
  return results.violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));
}

/** Whether a request asks for URLs, for this user. */
function isOf(user: number, request: Request): boolean {
  const [, claims = ''] = (request.headers().authorization ?? '').split('.');
  return (
    request.url().endsWith('/api/chat-images/signed-urls') &&
    (JSON.parse(Buffer.from(claims, 'base64url').toString()) as { sub: string }).sub === String(user)
  );
}

async function urlsIn(request: Request): Promise<string[]> {
  const response = await request.response();
  const { data } = (await response?.json()) as Handed;
  return data.map(({ url }) => url);
}

function pathOf(url: string): string {
  return new URL(url).pathname;
}
