import type { ChatImages } from './chat-images.js';
import { ChatImagesError } from './errors.js';
import type { Image, Progress } from './types.js';
import { newIdempotencyKey } from './upload-form.js';
import { memoryStorage, type StoredUpload, type UploadStorage } from './upload-storage.js';
import { pause, pauseMs } from './waiting.js';

/** A snapshot of a picture in the queue. */
export type QueuedUpload = StoredUpload & {
  readonly state:
    /** For its turn, for the network, or for a service that is down: `error` has the last reason. */
    | 'waiting'
    | 'uploading'
    /** `image` is there, and the picture has left the queue. */
    | 'uploaded'
    /** The service refuses the picture: `error` says why. A person decides: `retry` or `remove`. */
    | 'failed'
    /** A person has removed the picture from the queue. */
    | 'removed';
  readonly progress?: Progress | undefined;
  readonly image?: Image | undefined;
  readonly error?: unknown;
};

type Change = Pick<QueuedUpload, 'state' | 'progress' | 'image' | 'error'>;

/**
 * Uploads pictures one after the other, until each is uploaded or refused, whatever happens to the network; with a storage
 * that outlives the page, whatever happens to the page too. A picture keeps its idempotency key, so it becomes one image.
 */
export class UploadQueue {
  /** In the order of their next tries. */
  private queued: readonly QueuedUpload[] = [];
  private readonly listeners = new Set<(upload: QueuedUpload) => void>();
  private loading: Promise<void> | undefined;
  private isRunning = false;
  private stopping = new AbortController();
  /** Aborted to end the pause after the try that is under way, or that pause itself. */
  private waking = new AbortController();
  private current: { readonly key: string; readonly abort: AbortController } | undefined;

  constructor(
    private readonly client: ChatImages,
    private readonly storage: UploadStorage = memoryStorage(),
  ) {}

  /** The pictures that have not been uploaded. The array is another one after each change. */
  get uploads(): readonly QueuedUpload[] {
    return this.queued;
  }

  /**
   * Hears of every change of a picture: its state and its progress.
   *
   * @returns a function that ends this
   */
  subscribe(listener: (upload: QueuedUpload) => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  /** Reads what the storage has kept from before, and uploads. `add` calls it too. */
  async start(): Promise<void> {
    if (this.stopping.signal.aborted) this.stopping = new AbortController();
    this.loading ??= this.load();
    try {
      await this.loading;
    } catch (error) {
      this.loading = undefined;
      throw error;
    }
    void this.run();
  }

  /** Leaves what is under way. The pictures stay, for the next `start`. */
  stop(): void {
    this.stopping.abort();
  }

  /**
   * Adds a picture.
   *
   * @returns when the storage keeps the picture
   */
  async add(file: StoredUpload['file'], conversation: StoredUpload['conversation']): Promise<QueuedUpload> {
    await this.start();
    const stored: StoredUpload = { key: newIdempotencyKey(), file, conversation, addedAt: Date.now() };
    await this.storage.put(stored);
    const upload: QueuedUpload = { ...stored, state: 'waiting' };
    this.queued = [...this.queued, upload];
    this.tell(upload);
    void this.run();
    return upload;
  }

  /** Goes on at once, as the queue does by itself at the page's `online` event: for other platforms, or after a log-in. */
  resume(): void {
    this.waking.abort();
    void this.run();
  }

  /** Tries a failed picture again. */
  retry(key: string): void {
    if (this.find(key)?.state === 'failed') this.change(key, { state: 'waiting' });
    this.resume();
  }

  /** Takes a picture out of the queue. One that has just reached the service may be an image all the same. */
  async remove(key: string): Promise<void> {
    const upload = this.find(key);
    if (!upload) return;
    this.queued = this.queued.filter((other) => other.key !== key);
    if (this.current?.key === key) this.current.abort.abort();
    this.tell({ ...upload, state: 'removed' });
    await this.storage.delete(key);
  }

  private async load(): Promise<void> {
    const stored = await this.storage.all();
    const uploads = stored
      .sort((one, other) => one.addedAt - other.addedAt)
      .map((upload): QueuedUpload => ({ ...upload, state: 'waiting' }));
    this.queued = [...uploads, ...this.queued];
    for (const upload of uploads) this.tell(upload);
  }

  private async run(): Promise<void> {
    if (this.isRunning) return;
    this.isRunning = true;
    const stopped = this.stopping.signal;
    try {
      for (let failures = 0; ;) {
        const next = this.queued.find(({ state }) => state === 'waiting');
        if (!next || stopped.aborted) return;
        const error = await this.upload(next, stopped);
        failures = error === undefined ? 0 : failures + 1;
        if (error !== undefined) await this.pauseAfter(error, failures, stopped);
      }
    } finally {
      this.isRunning = false;
      // A start during the end of this run found it still running.
      if (stopped.aborted && !this.stopping.signal.aborted) void this.run();
    }
  }

  /** @returns the reason to wait before the next try */
  private async upload({ key, file, conversation }: QueuedUpload, stopped: AbortSignal): Promise<unknown> {
    const abort = new AbortController();
    const stop = (): void => abort.abort();
    stopped.addEventListener('abort', stop);
    this.current = { key, abort };
    this.waking = new AbortController();
    this.change(key, { state: 'uploading' });
    try {
      const image = await this.client.upload(file, {
        ...conversation,
        idempotencyKey: key,
        signal: abort.signal,
        // The queue itself tries again, so that another picture has its turn in between.
        retryMs: 0,
        onProgress: (progress) => this.change(key, { state: 'uploading', progress }),
      });
      await this.finish(key, image);
    } catch (error) {
      if (abort.signal.aborted) {
        this.change(key, { state: 'waiting' });
      } else if (isFinal(error)) {
        this.change(key, { state: 'failed', error });
      } else {
        this.change(key, { state: 'waiting', error });
        this.moveToEnd(key);
        return error;
      }
    } finally {
      stopped.removeEventListener('abort', stop);
      this.current = undefined;
    }
    return undefined;
  }

  /** A picture that the storage cannot delete is uploaded again after a reload, which gives the same image. */
  private async finish(key: string, image: Image): Promise<void> {
    await this.storage.delete(key).catch(() => undefined);
    this.change(key, { state: 'uploaded', image });
    this.queued = this.queued.filter((other) => other.key !== key);
  }

  private async pauseAfter(error: unknown, failures: number, stopped: AbortSignal): Promise<void> {
    const retryAfterMs = error instanceof ChatImagesError ? error.retryAfterMs : undefined;
    await pause(pauseMs(failures, retryAfterMs, this.client.timing), {
      signals: [stopped, this.waking.signal],
      untilOnline: retryAfterMs === undefined,
    });
  }

  private find(key: string): QueuedUpload | undefined {
    return this.queued.find((upload) => upload.key === key);
  }

  /** Replaces state, progress, image and error together. A field that is left out is cleared. */
  private change(key: string, { state, progress, image, error }: Change): void {
    const upload = this.find(key);
    if (!upload) return;
    const changed: QueuedUpload = { ...upload, state, progress, image, error };
    this.queued = this.queued.map((other) => (other === upload ? changed : other));
    this.tell(changed);
  }

  private moveToEnd(key: string): void {
    const upload = this.find(key);
    if (upload) this.queued = [...this.queued.filter((other) => other !== upload), upload];
  }

  private tell(upload: QueuedUpload): void {
    for (const listener of this.listeners) {
      try {
        listener(upload);
      } catch (error) {
        // A mistake of the app must show, and must not stop the queue.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/** Whether another try cannot help. A refused token can: the user logs in again. What is not ours came from `token`. */
function isFinal(error: unknown): boolean {
  return error instanceof ChatImagesError && !error.isTemporary && error.code !== 'UNAUTHENTICATED';
}
