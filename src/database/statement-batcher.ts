import pLimit from 'p-limit';

/** How many items of a failed batch are retried at the same time. */
const PARALLEL_RETRIES = 4;

type Waiting<Item, Result> = {
  readonly item: Item;
  /** From `performance.now()`. */
  readonly since: number;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
};

export type BatchLimits = {
  /** Maximum number of items in one statement. */
  readonly maxItems: number;
  /** Maximum number of statements running at the same time. */
  readonly maxInFlight: number;
  /** When a statement fails with an error that concerns all items, waiting items older than this fail with that error. */
  readonly maxWaitMs: number;
};

/**
 * Runs the items of several requests in one statement. There is no timer; a busier database gets larger batches:
 * - No statement running: a new item starts a statement at once.
 * - Less than `maxInFlight` statements running: the statement also takes the items of the same event loop turn.
 * - `maxInFlight` statements running: new items wait, and the next statement takes all of them.
 *
 * Each item gets its own result or error. When one item may have caused the failure of a batch, each item is retried alone,
 * a few at a time. When the failure concerns all items, such as a server that does not respond, long-waiting items fail too.
 * Otherwise they would fail later, one batch after the other.
 */
export class StatementBatcher<Item, Result> {
  private readonly waiting: Waiting<Item, Result>[] = [];
  private inFlight = 0;
  private scheduled = false;

  /**
   * @param run runs one statement for all items. Resolves to one result per item, in the same order. Rejects when nothing
   *   was done.
   * @param concernsAll whether an error concerns every item, so that retrying each item alone is useless
   * @param isHeld whether the item's row is known to be locked. Such an item is not retried: it fails with the error of its
   *   batch.
   * @param onBatch called when a statement begins, with its number of items and the wait of its first item
   */
  constructor(
    private readonly run: (items: readonly Item[]) => Promise<readonly Result[]>,
    private readonly concernsAll: (error: unknown) => boolean,
    private readonly limits: BatchLimits,
    private readonly isHeld: (item: Item) => boolean = () => false,
    private readonly onBatch?: (items: number, waitedMs: number) => void,
  ) {}

  submit(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ item, since: performance.now(), resolve, reject });
      if (this.scheduled || this.inFlight >= this.limits.maxInFlight) return;
      this.scheduled = true;
      // A microtask still collects the items that the same synchronous code submits. setImmediate collects all items of
      // this event loop turn.
      const schedule = this.inFlight === 0 ? queueMicrotask : setImmediate;
      schedule(() => {
        this.scheduled = false;
        this.start();
      });
    });
  }

  private start(): void {
    while (this.waiting.length > 0 && this.inFlight < this.limits.maxInFlight) {
      const batch = this.waiting.splice(0, this.limits.maxItems);
      this.inFlight += 1;
      if (this.onBatch && batch[0]) this.onBatch(batch.length, performance.now() - batch[0].since);
      void this.settle(batch).finally(() => {
        this.inFlight -= 1;
        this.start();
      });
    }
  }

  /** Never rejects. */
  private async settle(batch: readonly Waiting<Item, Result>[], lastTry = false): Promise<void> {
    try {
      const results = await this.run(batch.map(({ item }) => item));
      batch.forEach(({ resolve, reject }, index) => {
        const result = results[index];
        if (result === undefined) reject(new Error('The statement gave no result for an item.'));
        else resolve(result);
      });
    } catch (error) {
      if (this.concernsAll(error)) for (const { reject } of [...batch, ...this.takeOverdue()]) reject(error);
      else if (lastTry) for (const { reject } of batch) reject(error);
      else await pLimit(PARALLEL_RETRIES).map(batch, (waiting) => this.retryAlone(waiting, error));
    }
  }

  private async retryAlone(waiting: Waiting<Item, Result>, error: unknown): Promise<void> {
    if (this.isHeld(waiting.item)) waiting.reject(error);
    else await this.settle([waiting], true);
  }

  private takeOverdue(): readonly Waiting<Item, Result>[] {
    const oldest = performance.now() - this.limits.maxWaitMs;
    const firstKept = this.waiting.findIndex(({ since }) => since > oldest);
    return this.waiting.splice(0, firstKept === -1 ? this.waiting.length : firstKept);
  }
}
