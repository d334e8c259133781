import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import type { ImageFormat } from '../../src/pictures/image-format.js';

/** Debian's name of the browser. */
const PROGRAM = 'chromium';

/** Pictures in one call of the page. */
const BATCH = 64;

/** What a browser shows of a picture. */
export type BrowserView = {
  /** Size and digest of what `<img>` draws; nothing when it reports an error. */
  readonly image?: string;
  /** Size, digest and duration of each frame, and the repetitions; nothing unless every frame is whole. */
  readonly frames?: readonly string[];
  /** Why there are no frames. */
  readonly error?: string;
};

/**
 * Whether Chromium is installed.
 *
 * @throws Error when it is not, and REQUIRE_CHROMIUM is set
 */
export function hasChromium(): boolean {
  const found = chromiumPath() !== undefined;
  if (!found && process.env.REQUIRE_CHROMIUM)
    throw new Error('REQUIRE_CHROMIUM is set, but chromium is not installed.');
  return found;
}

function chromiumPath(): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return folders
    .map((folder) => join(folder, PROGRAM))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** Starts Chromium without a window. */
export function startChromium(): Promise<Browser> {
  return chromium.launch({
    executablePath: chromiumPath(),
    // The sandbox of Chromium does not start for root.
    chromiumSandbox: process.getuid?.() !== 0,
    // A screenshot has the pixels of the picture.
    args: ['--disable-gpu', '--force-color-profile=srgb'],
  });
}

/** A real Chromium without a window, which looks at pictures. */
export class Chromium {
  private constructor(
    private readonly browser: Browser,
    private readonly page: Page,
  ) {}

  static async start(): Promise<Chromium> {
    const browser = await startChromium();
    const page = await browser.newPage();
    // Only secure pages decode single frames.
    await page.route('**/*', (route) => route.fulfill({ contentType: 'text/html', body: '' }));
    await page.goto('https://pictures.test/');
    await page.addScriptTag({ path: fileURLToPath(new URL('chromium-viewer.js', import.meta.url)) });
    return new Chromium(browser, page);
  }

  /** What the browser shows of each picture. */
  async show(pictures: readonly { bytes: Buffer; format: ImageFormat }[]): Promise<BrowserView[]> {
    const views: BrowserView[] = [];
    for (let from = 0; from < pictures.length; from += BATCH) {
      const batch = pictures
        .slice(from, from + BATCH)
        .map(({ bytes, format }) => ({ base64: bytes.toString('base64'), type: `image/${format}` }));
      views.push(...(await this.page.evaluate<BrowserView[]>(`show(${JSON.stringify(batch)})`)));
    }
    return views;
  }

  async stop(): Promise<void> {
    await this.browser.close();
  }
}
