import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { Page, Request } from 'playwright-core';
import sharp from 'sharp';
import { hasChromium } from '../support/chromium.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { DOCTOR, STORAGES, TestApp } from '../support/test-app.js';
import { LIMIT_MS, Pages, phone, send, shown } from './pages.js';

/** The life of a URL, in seconds: the shortest with which a picture surely loads. */
const URL_SECONDS = '3';

/** The status of the response to an expired URL. */
const REFUSED = /\b403\b/;

const onChromium = hasChromium() ? describe : describe.skip;

onChromium.each(STORAGES)(
  'the chat in Chromium (skipped without it), on $name storage',
  ({ environment }) => {
    const journey = environment ? it : it.skip;
    let service: TestApp;
    let pages: Pages;

    beforeAll(async () => {
      if (!environment) return;
      service = await TestApp.start({
        ...environment,
        DEMO_ENABLED: 'true',
        SIGNED_URL_EXPIRES_SECONDS: URL_SECONDS,
      });
      pages = await Pages.start();
    });

    afterEach(async () => {
      if (environment) await pages.closeWithoutComplaint();
    });

    afterAll(async () => {
      if (!environment) return;
      await pages.stop();
      await service.stop();
    });

    const open = (address = `${service.url}/demo`): Promise<Page> =>
      pages.open(address, { expected: REFUSED, viewport: { width: 1100, height: 1000 } });

    journey(
      'a picture of one side is on the other, and has each of its pixels when it is opened',
      async () => {
        const page = await open();
        const bytes = await picture('png', 320, 200);
        await send(phone(page, 'Patient'), 'rash.png', bytes);
        await shown(phone(page, 'Patient'), 'rash.png', 'you').waitFor();
        await shown(phone(page, 'Doctor'), 'rash.png', 'the patient').click();
        const whole = page.getByRole('dialog').getByRole('img');
        await eventually(
          () => whole.evaluate((view: HTMLImageElement) => view.naturalWidth === 320),
          'the picture',
          LIMIT_MS,
        );
        const screenshot = await whole.screenshot({ animations: 'disabled' });
        const raw = (image: Buffer): Promise<Buffer> => sharp(image).removeAlpha().raw().toBuffer();
        expect((await raw(screenshot)).equals(await raw(bytes))).toBe(true);
        await page.keyboard.press('Escape');
        await page.getByRole('dialog').waitFor({ state: 'hidden' });
      },
    );

    journey('URLs are renewed in one request for all pictures, and a view is never empty', async () => {
      for (let sent = 0; sent < 2; sent += 1) await service.upload(await picture('png', 64, 48));
      const page = await open('about:blank');
      const handed: Promise<string[]>[] = [];
      const refused: string[] = [];
      page.on('request', (request) => {
        if (isOf(DOCTOR, request)) handed.push(urlsIn(request));
      });
      page.on('response', (response) => {
        if (response.status() === 403) refused.push(response.url());
      });
      await page.goto(`${service.url}/demo`);
      const views = phone(page, 'Doctor')
        .getByRole('button', { name: /^Open picture/ })
        .locator('img');
      await views.nth(2).waitFor();
      await views.last().evaluate((view: HTMLImageElement) => {
        const seen = { urls: [view.src], empty: [] as string[] };
        Object.assign(globalThis, { seen });
        new MutationObserver(() => seen.urls.push(view.src)).observe(view, { attributeFilter: ['src'] });
        const look = (): void => {
          if (view.naturalWidth === 0) seen.empty.push(view.src);
          requestAnimationFrame(look);
        };
        look();
      });
      const seen = await eventually(
        async () => {
          const now = await page.evaluate<{ urls: string[]; empty: string[] }>('seen');
          return now.urls.length >= 4 && now;
        },
        'three renewals',
        LIMIT_MS,
      );
      expect(seen.empty).toEqual([]);
      const requests = await Promise.all(handed);
      const [first, last] = [0, 3].map((index) =>
        requests.findIndex((urls) => urls.includes(seen.urls[index] ?? '')),
      );
      const renewals = requests.slice(first, (last ?? 0) + 1);
      // A page that has stood still for seconds finds its URLs expired, and asks for those once more.
      const again = refused.length;
      expect(renewals.length).toBeGreaterThanOrEqual(4);
      expect(renewals.length).toBeLessThanOrEqual(4 + again);
      expect(renewals.filter((urls) => urls.length === 3).length).toBeGreaterThanOrEqual(4 - again);
    });

    journey(
      'a URL that is left to expire is refused by the storage, and a new one is in its place',
      async () => {
        const page = await open();
        const doctor = phone(page, 'Doctor');
        await doctor.getByRole('button', { name: 'Let it expire' }).last().click();
        await doctor.getByText('The storage has refused the expired URL').waitFor();
        const view = doctor
          .getByRole('button', { name: /^Open picture/ })
          .last()
          .locator('img');
        await eventually(
          () => view.evaluate((image: HTMLImageElement) => image.naturalWidth > 0),
          'the picture',
          LIMIT_MS,
        );
      },
    );

    journey('everything is refused to the outsider, in words', async () => {
      const page = await open();
      await phone(page, 'Patient').getByRole('img').first().waitFor();
      await page.getByRole('tab', { name: 'Outsider' }).click();
      await page.getByRole('button', { name: 'Try everything' }).click();
      const outcomes = page.getByRole('tabpanel').getByRole('listitem');
      await outcomes.getByText('Refused: ').nth(4).waitFor();
      expect(await outcomes.getByText('Granted').count()).toBe(0);
    });
  },
);

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
  const { data } = (await response?.json()) as { data: { url: string }[] };
  return data.map(({ url }) => url);
}
