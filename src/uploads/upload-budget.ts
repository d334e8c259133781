import { AppError, uploadGivenUp } from '../errors/app-error.js';

/**
 * The memory that counts for one received byte. The byte itself is held once. Socket buffers, and freed bytes before the next
 * garbage collection, are the rest. `npm run bench:upload-memory` measures whether the factor is enough.
 */
const BYTES_PER_RECEIVED_BYTE = 5;

/** Memory for the parts of a form beside its file. */
const FORM_BYTES = 2 * 1024 * 1024;

/** The reserve for the one upload that may continue when the rest is spent: a file of the largest size. */
export const reservedBytes = (maxFileBytes: number): number =>
  maxFileBytes * BYTES_PER_RECEIVED_BYTE + FORM_BYTES;

/** The most uploads of one user at the same time. The app sends one or a few. */
const MAX_UPLOADS_PER_USER = 16;

/** `Retry-After` for a client whose upload found no room. */
const RETRY_AFTER_SECONDS = 5;

/** Takes memory when there is room. Returns whether it did. */
type Take = () => boolean;

type Waiter = { readonly upload: UploadMemory; readonly take: Take; readonly admit: () => void };

/** The memory that one user's uploads may need together, by the lengths that their requests announce. */
type Share = {
  readonly userId: number;
  uploads: number;
  bytes: number;
  /** The part of `bytes` for uploads whose conversation is not authorised yet. */
  unauthorizedBytes: number;
  readonly line: Waiter[];
};

/**
 * The memory that all uploads of this process may hold together, and each user's share of it. An upload that finds no room
 * waits, and its socket is not read meanwhile.
 *
 * A user's share is half of all memory and {@link MAX_UPLOADS_PER_USER} uploads. Uploads whose conversation is not authorised
 * yet may use the memory of one picture of the largest size. An upload takes its part of the share before it is read, for
 * the length that it announces. So the upload can be received to its end, and a user whose connections stand still keeps
 * out no other user.
 *
 * The memory of the process counts bytes when they arrive, so connections that stand still early hold nothing. When the
 * memory is spent, the upload that has waited longest may use the reserve until there is room again. So one upload always
 * makes progress, and many half-received uploads can't block each other for ever.
 *
 * The budget does not ask whether a user takes part in any conversation: the main application's table may lack the index
 * for that. The small share of unauthorised uploads is enough.
 */
export class UploadBudget {
  private used = 0;
  private privileged: UploadMemory | undefined;
  private readonly shares = new Map<number, Share>();
  private readonly line: Waiter[] = [];
  private readonly bytesPerUser: number;

  /**
   * @param capacity bytes of memory, at least twice `reserved`
   * @param reserved {@link reservedBytes}
   * @param maxWaitMs how long one upload may wait for memory, all its waits together
   */
  constructor(
    private readonly capacity: number,
    readonly reserved: number,
    readonly maxWaitMs: number,
  ) {
    this.bytesPerUser = capacity / 2;
  }

  /** Begins an upload of a user. The caller must {@link UploadMemory.release} it. */
  begin(userId: number): UploadMemory {
    return new UploadMemory(this, userId);
  }

  /** Bytes of memory in use now. */
  get inUse(): number {
    return this.used;
  }

  /** Number of uploads that wait, for memory or for their user's share. */
  get waitingCount(): number {
    let count = this.line.length;
    for (const share of this.shares.values()) count += share.line.length;
    return count;
  }

  /** @internal called by {@link UploadMemory}, right before it takes from the share or waits for it */
  shareOf(userId: number): Share {
    const share = this.shares.get(userId) ?? { userId, uploads: 0, bytes: 0, unauthorizedBytes: 0, line: [] };
    this.shares.set(userId, share);
    return share;
  }

  /** @internal called by {@link UploadMemory} */
  takeShare(share: Share, bytes: number): boolean {
    const admitted =
      share.uploads < MAX_UPLOADS_PER_USER &&
      share.bytes + bytes <= this.bytesPerUser &&
      share.unauthorizedBytes + bytes <= this.reserved;
    if (!admitted) return false;
    share.uploads += 1;
    share.bytes += bytes;
    share.unauthorizedBytes += bytes;
    return true;
  }

  /** @internal called by {@link UploadMemory} */
  giveShare(share: Share, given: Partial<Pick<Share, 'uploads' | 'bytes' | 'unauthorizedBytes'>>): void {
    share.uploads -= given.uploads ?? 0;
    share.bytes -= given.bytes ?? 0;
    share.unauthorizedBytes -= given.unauthorizedBytes ?? 0;
    admitFrom(share.line);
    if (share.uploads === 0 && share.line.length === 0) this.shares.delete(share.userId);
  }

  /** @internal called by {@link UploadMemory} */
  take(upload: UploadMemory, bytes: number): boolean {
    const limit = upload === this.privileged ? this.capacity : this.capacity - this.reserved;
    if (this.used + bytes > limit) return false;
    this.used += bytes;
    return true;
  }

  /** @internal called by {@link UploadMemory} */
  give(upload: UploadMemory, bytes: number): void {
    this.used -= bytes;
    if (this.privileged === upload) this.privileged = undefined;
    this.admitWaiters();
  }

  /**
   * @internal called by {@link UploadMemory}
   * @returns a function that leaves the line; nothing when the waiter was admitted at once
   */
  stand(share: Share | undefined, waiter: Waiter): (() => void) | undefined {
    const line = share?.line ?? this.line;
    if (line.length === 0 && waiter.take()) return undefined;
    line.push(waiter);
    if (!share) this.admitWaiters();
    if (!line.includes(waiter)) return undefined;
    return () => {
      const index = line.indexOf(waiter);
      if (index !== -1) line.splice(index, 1);
    };
  }

  private admitWaiters(): void {
    // While the reserve is untouched, the right to use it can pass on.
    if (this.used <= this.capacity - this.reserved) this.privileged = undefined;
    admitFrom(this.line);
    if (this.privileged || this.line.length === 0) return;
    this.privileged = this.line[0]?.upload;
    admitFrom(this.line);
  }
}

/** Admits every waiter for whom there is room now. */
function admitFrom(line: Waiter[]): void {
  for (let index = 0; index < line.length;) {
    const waiter = line[index];
    if (!waiter?.take()) {
      index += 1;
      continue;
    }
    line.splice(index, 1);
    waiter.admit();
  }
}

/** The memory of one upload. */
export class UploadMemory {
  private share: Share | undefined;
  private announced = 0;
  private unauthorized = 0;
  private held = 0;
  private waited = 0;
  private released = false;
  private giveUp: (() => void) | undefined;

  constructor(
    private readonly budget: UploadBudget,
    private readonly userId: number,
  ) {}

  /** How long the upload has waited, in milliseconds. */
  get waitedMs(): number {
    return this.waited;
  }

  /** Whether the upload waits now: then its socket is not read. */
  get waits(): boolean {
    return this.giveUp !== undefined;
  }

  /**
   * Resolves when the user's share has room for the upload. Until then nothing of the upload may be read.
   *
   * @param bytes the most that may be received
   * @throws AppError TOO_MANY_REQUESTS when it has waited too long for other uploads of the same user
   */
  async enter(bytes: number): Promise<void> {
    const needed = Math.min(bytes * BYTES_PER_RECEIVED_BYTE, this.budget.reserved);
    const share = this.budget.shareOf(this.userId);
    await this.wait('TOO_MANY_REQUESTS', share, () => {
      const admitted = this.budget.takeShare(share, needed);
      if (admitted) {
        this.share = share;
        this.announced = this.unauthorized = needed;
      }
      return admitted;
    });
  }

  /** The user may upload to the conversation: the upload no longer counts as unauthorised. */
  authorize(): void {
    if (this.share) this.budget.giveShare(this.share, { unauthorizedBytes: this.unauthorized });
    this.unauthorized = 0;
  }

  /**
   * Counts bytes that have arrived. Resolves when there is room for them. Until then nothing more may be read.
   *
   * @throws AppError OVERLOADED when the upload has waited too long
   */
  async receive(bytes: number): Promise<void> {
    const needed = bytes * BYTES_PER_RECEIVED_BYTE;
    await this.wait('OVERLOADED', undefined, () => {
      const admitted = this.budget.take(this, needed);
      if (admitted) this.held += needed;
      return admitted;
    });
  }

  /** Gives everything back, once. A wait under way rejects. */
  release(): void {
    if (this.released) return;
    this.released = true;
    this.giveUp?.();
    this.budget.give(this, this.held);
    if (this.share)
      this.budget.giveShare(this.share, {
        uploads: 1,
        bytes: this.announced,
        unauthorizedBytes: this.unauthorized,
      });
    this.held = this.announced = this.unauthorized = 0;
  }

  private async wait(
    refusal: 'OVERLOADED' | 'TOO_MANY_REQUESTS',
    share: Share | undefined,
    take: Take,
  ): Promise<void> {
    if (this.released) throw uploadGivenUp();
    const started = performance.now();
    await new Promise<void>((resolve, reject) => {
      const wait: { timer?: NodeJS.Timeout } = {};
      const end = (settle: () => void): void => {
        clearTimeout(wait.timer);
        this.giveUp = undefined;
        settle();
      };
      const leave = this.budget.stand(share, { upload: this, take, admit: () => end(resolve) });
      if (!leave) {
        resolve();
        return;
      }
      const giveUp = (error: AppError): void => {
        leave();
        end(() => reject(error));
      };
      this.giveUp = () => giveUp(uploadGivenUp());
      wait.timer = setTimeout(
        () => giveUp(new AppError(refusal, { retryAfterSeconds: RETRY_AFTER_SECONDS })),
        Math.max(0, this.budget.maxWaitMs - this.waited),
      );
    });
    this.waited += performance.now() - started;
  }
}
