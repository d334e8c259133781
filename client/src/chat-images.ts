import type { components } from './api-types.js';
import { Connection, type TokenSource } from './connection.js';
import { send, type Send } from './send.js';
import { SignedUrls } from './signed-urls.js';
import type { Conversation, Image, ImageName, ImagePage, PictureFile, Progress, Variant } from './types.js';
import { newIdempotencyKey, pictureProgress, uploadForm } from './upload-form.js';
import { DEFAULT_TIMING, type Timing } from './waiting.js';

type Schemas = components['schemas'];

export type ChatImagesOptions = {
  /** The service's address, without `/api`: `https://api.example.com`. */
  readonly baseUrl: string;
  /** Asked before each request, and once more when the service refuses the token. */
  readonly token: TokenSource;
  /** Sent with each request, such as `X-App-Version`. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Where a platform needs other values than the usual. */
  readonly timing?: Partial<Timing>;
  /** Sends the requests in place of XMLHttpRequest and `fetch`. */
  readonly send?: Send;
  /** The clock, in milliseconds; `Date.now` by default. */
  readonly now?: () => number;
};

export type UploadOptions = Conversation & {
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Names the picture over all tries of its upload. The default is a fresh one. The service knows it for 24 hours. */
  readonly idempotencyKey?: string;
  /** How long failed tries are repeated, in milliseconds. */
  readonly retryMs?: number;
};

export type ListOptions = {
  /** `next_cursor` of the page before. */
  readonly cursor?: string | null | undefined;
  /** The most pictures of the page: 1 to 100, 50 by default. */
  readonly limit?: number;
  readonly signal?: AbortSignal | undefined;
};

export type UrlOptions = {
  /** `original` by default. */
  readonly variant?: Variant | undefined;
};

/** A user's way to the private pictures of the chats. */
export class ChatImages {
  /** @internal */
  readonly timing: Timing;
  private readonly connection: Connection;
  private readonly now: () => number;
  private urls: SignedUrls;

  constructor({
    baseUrl,
    token,
    headers = {},
    timing,
    send: ownSend = send,
    now = Date.now,
  }: ChatImagesOptions) {
    this.timing = { ...DEFAULT_TIMING, ...timing };
    this.now = now;
    this.connection = new Connection({
      baseUrl: baseUrl.replace(/\/+$/, ''),
      token,
      headers,
      now,
      send: ownSend,
      timing: this.timing,
    });
    this.urls = this.noUrls();
  }

  /**
   * Uploads a picture. One call makes one image, however often it is tried.
   *
   * @returns the image
   * @throws ChatImagesError when the service refuses the picture, or `retryMs` is over
   */
  async upload(file: PictureFile, options: UploadOptions): Promise<Image> {
    const { onProgress, signal, idempotencyKey = newIdempotencyKey() } = options;
    const { data } = await this.connection.request<Schemas['UploadedChatImageDto']>({
      method: 'POST',
      path: '/api/upload/chat-image',
      headers: { 'Idempotency-Key': idempotencyKey },
      body: () => uploadForm(file, options),
      ...(onProgress && {
        onProgress: (loaded: number, total: number) => onProgress(pictureProgress(file, loaded, total)),
      }),
      timeoutMs: this.timing.uploadTimeoutMs,
      retryMs: options.retryMs ?? this.timing.uploadRetryMs,
      signal,
    });
    if (file instanceof Blob) onProgress?.({ loaded: file.size, total: file.size });
    // Apps store the image. A stored signed URL would open the picture to anybody until it expires.
    const { signed_url, ...image } = data;
    return image;
  }

  /**
   * A URL for an image view. All that is asked for in one tick is one request (per hundred pictures), and what was asked for
   * before comes from memory, until shortly before it expires.
   *
   * @throws ChatImagesError FORBIDDEN, IMAGE_NOT_FOUND …
   */
  url(image: ImageName, { variant = 'original' }: UrlOptions = {}): Promise<string> {
    return this.urls.get(image, variant);
  }

  /**
   * A URL in place of one that an image view could not show, which has mostly expired. A second failure in a row is an error:
   * the picture itself is the reason, or the network.
   *
   * @param failedUrl the URL that the view had
   * @throws ChatImagesError IMAGE_NOT_SHOWN, or as {@link url}
   */
  onExpired(image: ImageName, failedUrl: string, { variant = 'original' }: UrlOptions = {}): Promise<string> {
    return this.urls.replace(image, variant, failedUrl);
  }

  /** Milliseconds for which the URL in memory still works; `undefined` where there is none. */
  urlLifeMs(image: ImageName, { variant = 'original' }: UrlOptions = {}): number | undefined {
    return this.urls.lifeMs(image, variant);
  }

  /**
   * A page of a conversation's pictures, newest first.
   *
   * @param conversation a number is an appointment
   * @throws ChatImagesError FORBIDDEN, APPOINTMENT_NOT_FOUND …
   */
  async list(
    conversation: number | Conversation,
    { cursor, limit, signal }: ListOptions = {},
  ): Promise<ImagePage> {
    const query = [
      ...(limit === undefined ? [] : [`limit=${limit}`]),
      ...(cursor ? [`cursor=${encodeURIComponent(cursor)}`] : []),
    ].join('&');
    const { data } = await this.connection.request<Schemas['ChatImageListDto']>({
      method: 'GET',
      path: `${listPath(conversation)}${query && '?'}${query}`,
      timeoutMs: this.timing.readTimeoutMs,
      retryMs: this.timing.readRetryMs,
      signal,
    });
    return data;
  }

  /** Forgets all URLs, for a user who logs out. */
  forget(): void {
    this.urls = this.noUrls();
  }

  private noUrls(): SignedUrls {
    return new SignedUrls(this.connection, this.now, this.timing);
  }
}

function listPath(conversation: number | Conversation): string {
  if (typeof conversation === 'number') return listPath({ appointmentId: conversation });
  return 'textSessionId' in conversation
    ? `/api/text-sessions/${conversation.textSessionId}/chat-images`
    : `/api/appointments/${conversation.appointmentId}/chat-images`;
}
