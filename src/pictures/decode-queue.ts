import { overloaded, PictureError } from './picture-error.js';

export type DecodeQueueLimits = {
  /** How many pictures are decoded at the same moment. */
  readonly slots: number;
  /** How many of these may be one user's. */
  readonly slotsPerUser: number;
  /** Up to so many bytes of memory a picture is light: it never waits for memory. */
  readonly lightBytes: number;
  /** The limit of memory of all pictures that are not light, together. */
  readonly heavyBytes: number;
  /** How long a picture may wait for its turn. */
  readonly maxWaitMs: number;
};

type Waiter = { readonly user: number; readonly bytes: number; readonly start: () => void };

/**
 * Whose picture is decoded next. Users take turns, however many pictures one of them sends, and no user takes all
 * slots: one is left for the next who comes. A picture that does not fit into the memory lets light ones pass, but no heavy ones.
 */
export class DecodeQueue {
  /** Waiting pictures by user, in the order of the users' turns. */
  private readonly waiting = new Map<number, Waiter[]>();
  private readonly running = new Map<number, number>();
  private slotsTaken = 0;
  private heavyBytesTaken = 0;

  constructor(private readonly limits: DecodeQueueLimits) {}

  /**
   * Runs the work in its turn.
   *
   * @param bytes the memory that it takes
   * @param left aborted when nobody waits for the result any more; then it does not begin
   * @throws PictureError when it has waited too long, or its sender has gone
   */
  async run<T>(user: number, bytes: number, left: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.turn(user, bytes, left);
    try {
      return await work();
    } finally {
      this.slotsTaken -= 1;
      if (bytes > this.limits.lightBytes) this.heavyBytesTaken -= bytes;
      const others = (this.running.get(user) ?? 1) - 1;
      if (others === 0) this.running.delete(user);
      else this.running.set(user, others);
      this.startNext();
    }
  }

  private turn(user: number, bytes: number, left: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const giveUp = (error: PictureError): void => {
        this.leave(waiter);
        settle();
        reject(error);
        this.startNext();
      };
      const onLeft = (): void =>
        giveUp(new PictureError('sender-left', 'The sender of the picture has gone.'));
      const timer = setTimeout(
        () => giveUp(overloaded('A picture has waited too long for its turn.')),
        this.limits.maxWaitMs,
      );
      const settle = (): void => {
        clearTimeout(timer);
        left.removeEventListener('abort', onLeft);
      };
      const waiter: Waiter = {
        user,
        bytes,
        start: () => {
          settle();
          resolve();
        },
      };
      const ofUser = this.waiting.get(user);
      if (ofUser) ofUser.push(waiter);
      else this.waiting.set(user, [waiter]);
      if (left.aborted) onLeft();
      else left.addEventListener('abort', onLeft);
      this.startNext();
    });
  }

  private startNext(): void {
    while (this.slotsTaken < this.limits.slots) {
      const next = this.next();
      if (!next) return;
      const { user, bytes, start } = next;
      this.leave(next);
      const ofUser = this.waiting.get(user);
      if (ofUser) {
        // Behind all others.
        this.waiting.delete(user);
        this.waiting.set(user, ofUser);
      }
      this.slotsTaken += 1;
      if (bytes > this.limits.lightBytes) this.heavyBytesTaken += bytes;
      this.running.set(user, (this.running.get(user) ?? 0) + 1);
      start();
    }
  }

  private next(): Waiter | undefined {
    let heavyMayStart = true;
    for (const [user, ofUser] of this.waiting) {
      if ((this.running.get(user) ?? 0) >= this.limits.slotsPerUser) continue;
      for (const waiter of ofUser) {
        if (waiter.bytes <= this.limits.lightBytes) return waiter;
        if (heavyMayStart && this.fits(waiter)) return waiter;
        heavyMayStart = false;
      }
    }
    return undefined;
  }

  private fits({ bytes }: Waiter): boolean {
    return this.heavyBytesTaken === 0 || this.heavyBytesTaken + bytes <= this.limits.heavyBytes;
  }

  private leave(waiter: Waiter): void {
    const ofUser = this.waiting.get(waiter.user) ?? [];
    const index = ofUser.indexOf(waiter);
    if (index !== -1) ofUser.splice(index, 1);
    if (ofUser.length === 0) this.waiting.delete(waiter.user);
  }
}
