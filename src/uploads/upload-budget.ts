import { AppError, uploadGivenUp } from '../errors/app-error.js';

/**
 * Memory that one received byte is counted as. The byte itself is held once. Socket buffers and freed bytes that the garbage
 * collector has not collected yet are the rest. `npm run bench:upload-memory` measures whether the factor is enough.
 */
const BYTES_PER_RECEIVED_BYTE = 5;

/** What is kept free for the one upload that is let through when the rest is spent: a picture of the largest size. */
export const RESERVED_BYTES = 52 * 1024 * 1024;

/** How many uploads of one user are under way at once; the app sends one or a few. */
const MAX_UPLOADS_PER_USER = 16;

/** After how many seconds a client whose upload found no room should try again. */
const RETRY_AFTER_SECONDS = 5;

/** Takes what it asks for when there is room, and says whether it did. */
type Take = () => boolean;

type Waiter = { readonly upload: UploadMemory; readonly take: Take; readonly admit: () => void };

/** What one user's uploads may come to need together, by the lengths that their requests announce. */
type Share = {
  readonly userId: number;
  uploads: number;
  bytes: number;
  /** Of these, for uploads whose appointment is not authorised yet. */
  unauthorizedBytes: number;
  readonly line: Waiter[];
};

/**
 * The memory that all uploads of this process may hold together, and the share of it that each user has. Who finds no
 * room waits, and is not read meanwhile.
 *
 * A user's share is half of all memory, and {@link MAX_UPLOADS_PER_USER} uploads; before their appointments are
 * authorised, as much as one picture of the largest size. An upload takes its part of the share whole, for the length
 * that it announces, before it is read: so it can be received to its end, and a user whose connections stand still keeps
 * nobody out but itself.
 *
 * The process's memory counts bytes when they arrive, so that connections that stand still early hold nothing. When it
 * is spent, one upload, the first that waited, may use the reserve until there is room again: so some upload always
 * goes on, and many half-received ones can't block each other for ever.
 *
 * Whether a user takes part in any appointment is not asked: the main application's table need not have an index for
 * that. The small share of what is not authorised is enough.
 */
export class UploadBudget {
  private used = 0;
  private privileged: UploadMemory | undefined;
  private readonly shares = new Map<number, Share>();
  private readonly line: Waiter[] = [];
  private readonly bytesPerUser: number;

  /**
   * @param capacity bytes of memory, at least twice {@link RESERVED_BYTES}
   * @param maxWaitMs how long one upload may wait for memory, all its waits together
   */
  constructor(
    private readonly capacity: number,
    readonly maxWaitMs: number,
  ) {
    this.bytesPerUser = capacity / 2;
  }

  /** Begins an upload of a user. Whoever begins one must {@link UploadMemory.release} it. */
  begin(userId: number): UploadMemory {
    return new UploadMemory(this, userId);
  }

  /** Bytes of memory in use now. */
  get inUse(): number {
    return this.used;
  }

  /** @internal called by {@link UploadMemory}, right before it takes from the share or stands in its line */
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
      share.unauthorizedBytes + bytes <= RESERVED_BYTES;
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
    const limit = upload === this.privileged ? this.capacity : this.capacity - RESERVED_BYTES;
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
   * @returns a way to leave the line; nothing when it was admitted at once
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
    // As long as the reserve is untouched, nobody needs the right to it to end.
    if (this.used <= this.capacity - RESERVED_BYTES) this.privileged = undefined;
    admitFrom(this.line);
    if (this.privileged || this.line.length === 0) return;
    this.privileged = this.line[0]?.upload;
    admitFrom(this.line);
  }
}

/** Admits who can be admitted now. */
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

  /** Whether the upload waits now, so that its client is not read. */
  get waits(): boolean {
    return this.giveUp !== undefined;
  }

  /**
   * Resolves when the user's share has room for an upload; until then nothing of it may be read.
   *
   * @param bytes the most that may be received
   * @throws AppError TOO_MANY_REQUESTS when it has waited too long for others of the same user
   */
  async enter(bytes: number): Promise<void> {
    const needed = Math.min(bytes * BYTES_PER_RECEIVED_BYTE, RESERVED_BYTES);
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

  /** Says that the user may upload to the appointment. */
  authorize(): void {
    if (this.share) this.budget.giveShare(this.share, { unauthorizedBytes: this.unauthorized });
    this.unauthorized = 0;
  }

  /**
   * Accounts for bytes that have arrived. Resolves when there is room for them; until then nothing more may be read.
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

  /** Gives everything back, once. A wait that is under way ends with an error. */
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
