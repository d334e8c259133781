import { overloaded, PictureError } from './picture-error.js';

export type DecodeQueueLimits = {
  /** Maximum number of pictures decoded at the same time. */
  readonly slots: number;
  /** Maximum number of slots for one user. */
  readonly slotsPerUser: number;
  /** A picture that needs at most this much memory is light: it never waits for memory. */
  readonly lightBytes: number;
  /** Memory limit for the sum of all heavy pictures. */
  readonly heavyBytes: number;
  /** Maximum wait in the queue. */
  readonly maxWaitMs: number;
};

type Waiter = { readonly user: number; readonly bytes: number; readonly start: () => void };

/**
 * Decides which picture is decoded next. Users take turns (round robin), regardless of how many pictures each user sends.
 * No user gets all slots: one slot stays free for the next user. A picture that does not fit into the memory limit is
 * overtaken by light pictures, but not by heavy pictures.
 */
export class DecodeQueue {
  /** Waiting pictures by user. The map's order is the order of the users' turns. */
  private readonly waiting = new Map<number, Waiter[]>();
  private readonly running = new Map<number, number>();
  private slotsTaken = 0;
  private heavyBytesTaken = 0;

  constructor(private readonly limits: DecodeQueueLimits) {}

  /** Number of pictures that wait. */
  get waitingCount(): number {
    let count = 0;
    for (const ofUser of this.waiting.values()) count += ofUser.length;
    return count;
  }

  /** Number of pictures that are decoded now. */
  get runningCount(): number {
    return this.slotsTaken;
  }

  /**
   * Runs the work when its turn comes.
   *
   * @param bytes memory that the work needs
   * @param senderLeft aborted when the client has disconnected; waiting work is then dropped
   * @param work gets the time that it has waited
   * @throws PictureError after the maximum wait, or when the client has disconnected
   */
  async run<T>(
    user: number,
    bytes: number,
    senderLeft: AbortSignal,
    work: (waitedMs: number) => Promise<T>,
  ): Promise<T> {
    const since = performance.now();
    await this.turn(user, bytes, senderLeft);
    try {
      return await work(performance.now() - since);
    } finally {
      this.slotsTaken -= 1;
      if (bytes > this.limits.lightBytes) this.heavyBytesTaken -= bytes;
      const stillRunning = (this.running.get(user) ?? 1) - 1;
      if (stillRunning === 0) this.running.delete(user);
      else this.running.set(user, stillRunning);
      this.startNext();
    }
  }

  private turn(user: number, bytes: number, senderLeft: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const giveUp = (error: PictureError): void => {
        this.remove(waiter);
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
        senderLeft.removeEventListener('abort', onLeft);
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
      if (senderLeft.aborted) onLeft();
      else senderLeft.addEventListener('abort', onLeft);
      this.startNext();
    });
  }

  private startNext(): void {
    while (this.slotsTaken < this.limits.slots) {
      const next = this.next();
      if (!next) return;
      const { user, bytes, start } = next;
      this.remove(next);
      const ofUser = this.waiting.get(user);
      if (ofUser) {
        // Move this user to the end of the map.
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

  private remove(waiter: Waiter): void {
    const ofUser = this.waiting.get(waiter.user) ?? [];
    const index = ofUser.indexOf(waiter);
    if (index !== -1) ofUser.splice(index, 1);
    if (ofUser.length === 0) this.waiting.delete(waiter.user);
  }
}
