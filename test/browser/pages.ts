import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { AxeResults } from 'axe-core';
import type { Browser, BrowserContextOptions, Locator, Page } from 'playwright-core';
import { startChromium } from '../support/chromium.js';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** The longest wait for a condition, on a machine that has much else to do. */
export const LIMIT_MS = 60_000;

/** The service's answer on a busy machine, after which the client tries again. */
const BUSY = /\bstatus of 503\b/;

/** Pages of a Chromium. An error or a warning on the console of one is a failure of the test. */
export class Pages {
  private readonly complaints: string[] = [];

  private constructor(private readonly browser: Browser) {}

  static async start(): Promise<Pages> {
    return new Pages(await startChromium());
  }

  /** @param expected the complaints that belong to the test */
  async open(
    address: string,
    { expected, ...options }: BrowserContextOptions & { readonly expected?: RegExp } = {},
  ): Promise<Page> {
    const page = await this.browser.newPage(options);
    page.setDefaultTimeout(LIMIT_MS);
    this.watch(page, expected);
    page.on('popup', (popup) => this.watch(popup, expected));
    await page.goto(address);
    return page;
  }

  /** Closes all pages. */
  async close(): Promise<void> {
    for (const context of this.browser.contexts()) await context.close();
  }

  /**
   * Closes all pages.
   *
   * @throws Error for what they have complained of
   */
  async closeWithoutComplaint(): Promise<void> {
    await this.close();
    const complaints = this.complaints.splice(0);
    if (complaints.length > 0) throw new Error(`The pages complain: ${complaints.join('\n')}`);
  }

  async stop(): Promise<void> {
    await this.browser.close();
  }

  private watch(page: Page, expected: RegExp | undefined): void {
    page.on('console', (message) => {
      const text = `${message.text()} ${message.location().url}`;
      if (!['error', 'warning'].includes(message.type())) return;
      if (![BUSY, expected].some((known) => known?.test(text))) this.complaints.push(text);
    });
    page.on('pageerror', (error) => this.complaints.push(String(error)));
  }
}

/** A phone of the demo. */
export function phone(page: Page, role: 'Patient' | 'Doctor'): Locator {
  return page.getByRole('region', { name: role, exact: true });
}

export async function send(
  from: Locator,
  name: string,
  buffer: Buffer,
  label = 'Choose pictures',
): Promise<void> {
  await from.getByLabel(label).setInputFiles({ name, mimeType: 'image/png', buffer });
}

/** The view of a picture in the chat of a phone. */
export function shown(on: Locator, name: string, sender: string): Locator {
  return on.getByRole('button', { name: `Open picture ${name} from ${sender}` }).locator('img');
}

/** The violations that axe finds, in a few words each. */
export async function violations(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  const results = await page.evaluate<AxeResults>('axe.run()');
  return results.violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));
}
