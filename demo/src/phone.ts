import {
  ChatImages,
  ChatImagesError,
  type ErrorCode,
  type Image,
  indexedDbStorage,
  type QueuedUpload,
  send,
  type Send,
  UploadQueue,
} from 'chat-image-store-client';
import { fileDetails } from './file-details.js';
import { type Role, type Session, tokenOf, type TrailEntry } from './session.js';

const PAGE_SIZE = 20;
const POLL_MS = 1500;

type Answer =
  { readonly trail: readonly TrailEntry[] } | { readonly error_code: ErrorCode; readonly message: string };

/** The phone of a user: an app that uses the client package, and a network that can be taken away. */
export class Phone {
  readonly pictures: ChatImages;
  readonly userId: number;
  /** The chat, oldest first. */
  images: readonly Image[] = [];
  /** Whether the first page has come. */
  isLoaded = false;
  /** What was taken out of the files of uploaded pictures, by number of the image. */
  readonly takenOut = new Map<number, readonly string[]>();
  /** A sentence for who can't see the chat. */
  news = '';
  error: unknown;
  private olderCursor: string | null = null;
  private isLoadingOlder = false;
  private readonly queue: UploadQueue;
  private readonly details = new Map<string, Promise<readonly string[]>>();
  private readonly listeners = new Set<() => void>();
  private network = new AbortController();
  private readonly token: (refused?: string) => Promise<string>;

  constructor(
    readonly role: Role,
    readonly session: Session,
  ) {
    this.userId = session.users[role].id;
    this.token = tokenOf(role, session);
    this.pictures = new ChatImages({ baseUrl: location.origin, token: this.token, send: this.send });
    this.queue = new UploadQueue(this.pictures, indexedDbStorage(`demo pictures of user ${this.userId}`));
    this.queue.subscribe((upload) => void this.onUpload(upload));
  }

  /** Begins: with the pictures that a reload has left in the queue, and with the chat. */
  start(): void {
    void this.queue.start();
    void this.poll();
  }

  /** Calls back after every change. @returns a function that ends this */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  /** The pictures that are not sent yet. */
  get uploads(): readonly QueuedUpload[] {
    return this.queue.uploads;
  }

  get hasOlder(): boolean {
    return this.olderCursor !== null;
  }

  get isOnline(): boolean {
    return !this.network.signal.aborted;
  }

  /** Takes the network away, with all that is under way, or gives it back. */
  setOnline(isOnline: boolean): void {
    if (isOnline) {
      this.network = new AbortController();
      // As a browser does. The client has waited for it.
      dispatchEvent(new Event('online'));
    } else this.network.abort();
    this.tell();
  }

  add(files: Iterable<File>): void {
    for (const file of files)
      void this.queue
        .add(file, { appointmentId: this.session.appointment_id })
        .then(({ key }) => this.details.set(key, fileDetails(file)));
  }

  retry(key: string): void {
    this.queue.retry(key);
  }

  remove(key: string): void {
    void this.queue.remove(key);
  }

  /** Adds the page before the oldest picture. */
  async loadOlder(): Promise<void> {
    if (this.isLoadingOlder || this.olderCursor === null) return;
    this.isLoadingOlder = true;
    try {
      const page = await this.pictures.list(this.session.appointment_id, {
        cursor: this.olderCursor,
        limit: PAGE_SIZE,
      });
      this.olderCursor = page.next_cursor;
      this.merge(page.images);
    } catch (error) {
      this.error = error;
    } finally {
      this.isLoadingOlder = false;
      this.tell();
    }
  }

  /** Who has got which URL of a picture, newest first. For the demo alone: the service's own API does not tell. */
  async trail(image: number): Promise<readonly TrailEntry[]> {
    const { status, body } = await this.send({
      method: 'GET',
      url: `${location.origin}/demo/images/${image}/trail`,
      headers: { Authorization: `Bearer ${await this.token()}` },
      signal: new AbortController().signal,
    });
    const answer = JSON.parse(body) as Answer;
    if (!('trail' in answer))
      throw new ChatImagesError({ code: answer.error_code, message: answer.message, status });
    return answer.trail;
  }

  private readonly send: Send = (request) => {
    this.network.signal.throwIfAborted();
    return send({ ...request, signal: AbortSignal.any([request.signal, this.network.signal]) });
  };

  private async poll(): Promise<never> {
    for (;;) {
      if (this.isOnline && document.visibilityState === 'visible') await this.refresh();
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Reads the newest pages, down to the pictures that are here. */
  private async refresh(): Promise<void> {
    try {
      for (let cursor: string | null | undefined; cursor !== null;) {
        const page = await this.pictures.list(this.session.appointment_id, { cursor, limit: PAGE_SIZE });
        const isFirst = !this.isLoaded;
        const overlaps = page.images.some(({ id }) => this.find(id));
        this.isLoaded = true;
        if (isFirst) this.olderCursor = page.next_cursor;
        this.merge(page.images);
        cursor = isFirst || overlaps ? null : page.next_cursor;
      }
      if (this.error !== undefined) {
        this.error = undefined;
        this.tell();
      }
    } catch (error) {
      this.error = error;
      this.tell();
    }
  }

  private merge(images: readonly Image[]): void {
    const changed = images.filter((image) => this.find(image.id)?.thumb_hash !== image.thumb_hash);
    if (changed.length === 0 && this.images.length > 0) return;
    const newest = this.images.at(-1)?.id ?? Infinity;
    const arrived = changed.filter(({ id, uploaded_by: sender }) => id > newest && sender !== this.userId);
    if (arrived.length > 0)
      this.news = arrived.length === 1 ? 'A picture has arrived.' : 'Pictures have arrived.';
    const all = new Map([...this.images, ...changed].map((image) => [image.id, image]));
    this.images = [...all.values()].sort(
      (one, other) => one.created_at.localeCompare(other.created_at) || one.id - other.id,
    );
    this.tell();
  }

  private find(id: number): Image | undefined {
    return this.images.find((image) => image.id === id);
  }

  private async onUpload({ key, state, image }: QueuedUpload): Promise<void> {
    if (state === 'uploaded' && image) {
      this.news = 'The picture is sent.';
      this.merge([image]);
      const details = await this.details.get(key);
      this.details.delete(key);
      if (details) this.takenOut.set(image.id, details);
    }
    this.tell();
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}
