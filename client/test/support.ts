import { picture } from '../../test/support/pictures.js';
import type { TestApp } from '../../test/support/test-app.js';
import { ChatImages, type ChatImagesOptions, type HttpRequest, send, type Send } from '../src/index.js';

/** A client of the service, for a user. Its pauses are short. */
export function clientOf(
  service: TestApp,
  user: number,
  { timing, ...options }: Partial<ChatImagesOptions> = {},
): ChatImages {
  return new ChatImages({
    baseUrl: service.url,
    token: () => service.token(user),
    timing: { firstPauseMs: 10, longestPauseMs: 50, ...timing },
    ...options,
  });
}

/** The requests that a client sends. */
export class SentRequests {
  readonly all: HttpRequest[] = [];
  private readonly failed = new Set<HttpRequest>();

  readonly send: Send = async (request) => {
    this.all.push(request);
    this.failed.add(request);
    const response = await send(request);
    if (response.status < 500) this.failed.delete(request);
    return response;
  };

  /**
   * The numbers of pictures in the requests for URLs. The client repeats a request that fails on a busy machine: such a try
   * does not count.
   */
  get batches(): number[] {
    const answered = this.all.filter((request) => !this.failed.has(request));
    return answered.map(({ body }) => (JSON.parse(body as string) as { ids: unknown[] }).ids.length);
  }

  get idempotencyKeys(): (string | undefined)[] {
    return this.all.map(({ headers }) => headers['Idempotency-Key']);
  }

  clear(): void {
    this.all.length = 0;
  }
}

/** A new picture, as a phone's picker gives it. */
export async function photo(name = 'rash.png', width = 64): Promise<File> {
  return new File([new Uint8Array(await picture('png', width))], name, { type: 'image/jpeg' });
}

/** How many images the service has stored. */
export async function storedImages({ database }: TestApp): Promise<number> {
  const [row] = await database.query<{ count: string }[]>('SELECT count(*) FROM chat_images');
  return Number(row?.count);
}

/** Resolves to what the promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => Promise.reject(new Error('The promise was to be rejected.')),
    (error: unknown) => error,
  );
}
