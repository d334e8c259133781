import type { components } from './api-types.js';
import type { Connection } from './connection.js';
import { ChatImagesError } from './errors.js';
import type { ImageName, Variant } from './types.js';
import type { Timing } from './waiting.js';

/** The most pictures of one request. */
const MAX_BATCH = 100;

/** A URL is renewed this long before its end, or a tenth of its life before, whichever is shorter. */
const MAX_MARGIN_MS = 30_000;

type Entry = components['schemas']['SignedUrlsResponseDto']['data'][number];

/** A URL in memory. Times are by the service's clock, in milliseconds. */
type KnownUrl = {
  readonly url: string;
  readonly expiresAt: number;
  readonly renewAt: number;
  /** Whether it came in place of a URL that did not show the picture. */
  readonly isReplacement: boolean;
  /** The URLs that this one came in place of. */
  readonly outdated: readonly string[];
};

type Wanted = {
  readonly key: string;
  readonly id: number | string;
  readonly variant: Variant;
  readonly resolve: (url: string) => void;
  readonly reject: (error: unknown) => void;
};

/** The signed URLs of a user. They are in memory alone, and go with the page. */
export class SignedUrls {
  private readonly known = new Map<string, KnownUrl>();
  private readonly pending = new Map<string, Promise<string>>();
  private readonly failed = new Set<string>();
  private wanted: Wanted[] = [];
  /** The service's clock less the client's, in milliseconds; never too early. */
  private clockOffset = 0;

  constructor(
    private readonly connection: Connection,
    private readonly now: () => number,
    private readonly timing: Timing,
  ) {}

  /** A URL that still works for a while. */
  get(image: ImageName, variant: Variant): Promise<string> {
    const known = this.known.get(keyOf(image, variant));
    if (known && this.serverNow() < known.renewAt) return Promise.resolve(known.url);
    return this.ask(image, variant);
  }

  /** A URL in place of one that did not show the picture: once, until the new one expires. */
  async replace(image: ImageName, variant: Variant, failedUrl: string): Promise<string> {
    const key = keyOf(image, variant);
    const known = this.known.get(key);
    if (known && this.serverNow() < known.expiresAt) {
      if (known.outdated.includes(normal(failedUrl))) return known.url;
      // Any other URL counts as this one, however it is spelled: a view that asks again and again must end.
      if (known.isReplacement) {
        throw new ChatImagesError({ code: 'IMAGE_NOT_SHOWN', message: 'The picture could not be shown.' });
      }
    }
    this.failed.add(key);
    return this.ask(image, variant);
  }

  /** Milliseconds until the URL expires that is in memory. */
  lifeMs(image: ImageName, variant: Variant): number | undefined {
    const known = this.known.get(keyOf(image, variant));
    return known && Math.max(0, known.expiresAt - this.serverNow());
  }

  private serverNow(): number {
    return this.now() + this.clockOffset;
  }

  /** All who ask before the answer share it. */
  private ask(image: ImageName, variant: Variant): Promise<string> {
    const key = keyOf(image, variant);
    const pending = this.pending.get(key);
    if (pending) return pending;
    const asked = new Promise<string>((resolve, reject) => {
      // A timer runs after all that renders now, also what is awaited in between.
      if (this.wanted.length === 0) setTimeout(() => this.sendWanted(), 0);
      this.wanted.push({ key, id: idOf(image), variant, resolve, reject });
    }).finally(() => this.pending.delete(key));
    this.pending.set(key, asked);
    return asked;
  }

  private sendWanted(): void {
    const wanted = this.wanted;
    this.wanted = [];
    for (let start = 0; start < wanted.length; start += MAX_BATCH) {
      void this.sendBatch(wanted.slice(start, start + MAX_BATCH));
    }
  }

  private async sendBatch(batch: readonly Wanted[]): Promise<void> {
    try {
      const { data, header, sentAt } = await this.connection.request<Entry[]>({
        method: 'POST',
        path: '/api/chat-images/signed-urls',
        headers: { 'Content-Type': 'application/json' },
        body: () => JSON.stringify({ ids: batch.map(batchEntry) }),
        timeoutMs: this.timing.readTimeoutMs,
        retryMs: this.timing.readRetryMs,
      });
      this.setClock(header('Date'), data, sentAt);
      batch.forEach((wanted, index) => this.settle(wanted, data[index], header('X-Request-Id')));
      this.dropExpired();
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  }

  /** `Date` has whole seconds, and is older than the answer: the clock is set to the latest time that it can be. */
  private setClock(date: string | null, data: readonly Entry[], sentAt: number): void {
    const signed = data.find((entry) => 'url' in entry);
    // Another origin's page cannot read the header where a proxy does not expose it.
    const serverTime = date
      ? Date.parse(date)
      : signed && timeOf(signed.expires_at) - signed.expires_in * 1000;
    if (serverTime !== undefined) this.clockOffset = serverTime + 1000 - sentAt;
  }

  private dropExpired(): void {
    for (const [key, { expiresAt }] of this.known) {
      if (expiresAt < this.serverNow()) this.known.delete(key);
    }
  }

  private settle({ key, resolve, reject }: Wanted, entry: Entry | undefined, requestId: string | null): void {
    if (entry && 'url' in entry) {
      const expiresAt = timeOf(entry.expires_at);
      const renewAt = expiresAt - Math.min(MAX_MARGIN_MS, entry.expires_in * 100);
      const before = this.known.get(key);
      // The service gives the same URL within one second.
      const outdated = before
        ? [...before.outdated, normal(before.url)].filter((url) => url !== normal(entry.url))
        : [];
      const isReplacement = this.failed.delete(key);
      this.known.set(key, { url: entry.url, expiresAt, renewAt, isReplacement, outdated });
      resolve(entry.url);
      return;
    }
    this.known.delete(key);
    reject(
      new ChatImagesError({
        code: entry?.error_code ?? 'UNREADABLE_ANSWER',
        message: entry?.message ?? 'The answer could not be read.',
        requestId: requestId ?? undefined,
      }),
    );
  }
}

/** An entry of the request's `ids`. The service has no thumbnails yet, so both variants show the original. */
function batchEntry({ id }: Wanted): number | string {
  return id;
}

function idOf(image: ImageName): number | string {
  return typeof image === 'object' ? image.id : image;
}

function keyOf(image: ImageName, variant: Variant): string {
  return `${variant} ${idOf(image)}`;
}

/** A URL as an image view spells it. */
function normal(url: string): string {
  try {
    return new URL(url).href;
  } catch {
    return url;
  }
}

/** Reads a timestamp of the service. Some engines refuse its six fractional digits. */
function timeOf(timestamp: string): number {
  return Date.parse(timestamp.replace(/(\.\d{3})\d+/, '$1'));
}
