import { AppError } from '../errors/app-error.js';

/**
 * What a received byte costs: it is in memory as it was sent, joined, and as it is stored, and what is done with stays
 * until the garbage collectors of two threads come round. `npm run bench:upload-memory` measures whether this is enough.
 */
const BYTES_PER_RECEIVED_BYTE = 5;

/** What is kept free for the one upload that is let through when the rest is spent: a picture of the largest size. */
export const RESERVED_BYTES = 52 * 1024 * 1024;

type Waiter = { readonly upload: UploadMemory; readonly bytes: number; readonly admit: () => void };

/**
 * The memory that all uploads of this process may hold together. Bytes count when they arrive, not when they are
 * announced, so that clients that stand still hold nothing. When all is spent, uploads wait by not reading their
 * sockets. One of them, the first that waited, may then use the reserve until it is done: so some upload always goes
 * on, and many half-received ones can't block each other for ever.
 */
export class UploadBudget {
  private used = 0;
  private privileged: UploadMemory | undefined;
  private readonly waiters: Waiter[] = [];

  /**
   * @param capacity bytes of memory, at least twice {@link RESERVED_BYTES}
   * @param maxWaitMs how long one upload may wait for memory, all its waits together
   */
  constructor(
    private readonly capacity: number,
    readonly maxWaitMs: number,
  ) {}

  /** Begins an upload. Whoever begins one must {@link UploadMemory.release} it. */
  begin(): UploadMemory {
    return new UploadMemory(this);
  }

  /** Bytes of memory in use now. */
  get inUse(): number {
    return this.used;
  }

  /** @internal called by {@link UploadMemory}; resolves to a way to give up waiting when it is not admitted at once */
  request(upload: UploadMemory, bytes: number, admit: () => void): (() => void) | undefined {
    if (this.waiters.length === 0 && this.admits(upload, bytes)) {
      this.used += bytes;
      return undefined;
    }
    const waiter = { upload, bytes, admit };
    this.waiters.push(waiter);
    this.admitWaiters();
    if (!this.waiters.includes(waiter)) return undefined;
    return () => {
      const index = this.waiters.indexOf(waiter);
      if (index !== -1) this.waiters.splice(index, 1);
    };
  }

  /** @internal called by {@link UploadMemory} */
  give(upload: UploadMemory, bytes: number): void {
    this.used -= bytes;
    if (this.privileged === upload) this.privileged = undefined;
    this.admitWaiters();
  }

  private admitWaiters(): void {
    this.privileged ??= this.waiters[0]?.upload;
    for (let index = 0; index < this.waiters.length;) {
      const waiter = this.waiters[index];
      if (!waiter || !this.admits(waiter.upload, waiter.bytes)) {
        index += 1;
        continue;
      }
      this.waiters.splice(index, 1);
      this.used += waiter.bytes;
      waiter.admit();
    }
  }

  private admits(upload: UploadMemory, bytes: number): boolean {
    const limit = upload === this.privileged ? this.capacity : this.capacity - RESERVED_BYTES;
    return this.used + bytes <= limit;
  }
}

/** The memory of one upload. */
export class UploadMemory {
  private held = 0;
  private waited = 0;
  private released = false;

  constructor(private readonly budget: UploadBudget) {}

  /**
   * Accounts for bytes that have arrived. Resolves when there is room for them; until then nothing more may be read.
   *
   * @throws AppError OVERLOADED when the upload has waited too long
   */
  async receive(bytes: number): Promise<void> {
    const needed = bytes * BYTES_PER_RECEIVED_BYTE;
    const started = performance.now();
    await new Promise<void>((resolve, reject) => {
      const wait: { timer?: NodeJS.Timeout } = {};
      const giveUp = this.budget.request(this, needed, () => {
        clearTimeout(wait.timer);
        resolve();
      });
      if (!giveUp) {
        resolve();
        return;
      }
      wait.timer = setTimeout(
        () => {
          giveUp();
          reject(new AppError('OVERLOADED'));
        },
        Math.max(0, this.budget.maxWaitMs - this.waited),
      );
    });
    this.waited += performance.now() - started;
    if (this.released) this.budget.give(this, needed);
    else this.held += needed;
  }

  /** Gives everything back, once. */
  release(): void {
    if (this.released) return;
    this.released = true;
    this.budget.give(this, this.held);
    this.held = 0;
  }
}
