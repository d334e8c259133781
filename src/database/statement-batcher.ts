import pLimit from 'p-limit';

/** The shortest and the longest time that items wait for the end of a running statement before they start one beside it. */
const PATIENCE_MS = { least: 5, most: 50 };

/** The number of waiting items from which a second statement pays: it costs little for each, and two keep more processors busy. */
const MANY_ITEMS = 64;

/** The share of the newest statement in the average time of a statement. */
const NEWEST_SHARE = 0.2;

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
  /** Maximum number of statements running at the same time. A second one is the exception. */
  readonly maxInFlight: number;
  /** When a statement fails with an error that concerns all items, waiting items older than this fail with that error. */
  readonly maxWaitMs: number;
};

/**
 * Runs the items of several requests in one statement. A busier database gets larger batches:
 * - No statement running: a new item starts a statement at once.
 * - A statement running: new items wait for its end, and the next statement takes all of them. Statements beside each other
 *   would be smaller, and cost the database more for each item, above all when several instances share it.
 * - Very many items wait, or the statement takes twice as long as usual, as one that waits for a lock: the next one starts
 *   beside it, up to `maxInFlight`.
 *
 * Each item gets its own result or error. When one item may have caused the failure of a batch, each item is retried alone,
 * a few at a time. When the failure concerns all items, such as a server that does not respond, long-waiting items fail too.
 * Otherwise they would fail later, one batch after the other.
 */
export class StatementBatcher<Item, Result> {
  private readonly waiting: Waiting<Item, Result>[] = [];
  private inFlight = 0;
  private scheduled = false;
  /** The average time of a statement. */
  private usualMs = 0;
  /** Runs while items wait for the end of a statement. */
  private patience: NodeJS.Timeout | undefined;

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
      this.plan();
    });
  }

  /** Says when the next statement begins, where that is not the end of a running one. */
  private plan(): void {
    if (this.waiting.length === 0 || this.inFlight >= this.limits.maxInFlight) return;
    if (this.inFlight === 0) {
      if (this.scheduled) return;
      this.scheduled = true;
      // Collects the items that the same synchronous code, and what runs before this microtask, submit.
      queueMicrotask(() => {
        this.scheduled = false;
        this.start();
      });
    } else if (this.waiting.length >= Math.min(MANY_ITEMS, this.limits.maxItems)) this.start();
    else {
      const { least, most } = PATIENCE_MS;
      const ms = Math.min(most, Math.max(least, 2 * this.usualMs));
      this.patience ??= setTimeout(() => this.start(), ms);
    }
  }

  private start(): void {
    clearTimeout(this.patience);
    this.patience = undefined;
    const batch = this.waiting.splice(0, this.limits.maxItems);
    const [first] = batch;
    if (!first) return;
    const started = performance.now();
    this.onBatch?.(batch.length, started - first.since);
    this.inFlight += 1;
    void this.settle(batch).finally(() => {
      this.inFlight -= 1;
      this.usualMs += NEWEST_SHARE * (performance.now() - started - this.usualMs);
      this.start();
    });
    this.plan();
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
