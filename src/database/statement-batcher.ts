import pLimit from 'p-limit';

/** How many items of a failed batch are tried at the same moment. */
const ALONE_AT_ONCE = 4;

type Waiting<Item, Result> = {
  readonly item: Item;
  /** By the clock of `performance.now()`. */
  readonly since: number;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
};

export type BatchLimits = {
  /** How many items may share one statement. */
  readonly maxItems: number;
  /** How many statements may be under way at the same moment. */
  readonly maxInFlight: number;
  /** Who has waited for so long when a statement fails for a reason that is everybody's, fails with it. */
  readonly maxWaitMs: number;
};

/**
 * Lets requests that wait at the same moment share one statement. An item that comes while nothing is under way goes at
 * once; one that comes while a place is free, with what else arrives in the same turn of the event loop; those that come
 * while all places are taken go together when one becomes free. So nobody waits for a clock, and the busier the database,
 * the larger the batches.
 *
 * Each item gets its own result or its own error: when a batch fails for a reason that may be one item's, each of its
 * items is run once more, alone, a few at a time. When it fails for a reason that is everybody's, such as a server that does not answer, those
 * who have long waited for a place fail with it, instead of one batch after the other.
 */
export class StatementBatcher<Item, Result> {
  private readonly waiting: Waiting<Item, Result>[] = [];
  private inFlight = 0;
  private scheduled = false;

  /**
   * @param run runs one statement for all items; resolves to one result for each, in their order, or rejects with
   *   nothing done
   * @param concernsAll whether an error would be every item's own, so that trying each alone is no use
   * @param isHeld whether an item would alone only wait for what is held from another item too: it fails with its batch's
   *   error then
   */
  constructor(
    private readonly run: (items: readonly Item[]) => Promise<readonly Result[]>,
    private readonly concernsAll: (error: unknown) => boolean,
    private readonly limits: BatchLimits,
    private readonly isHeld: (item: Item) => boolean = () => false,
  ) {}

  submit(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ item, since: performance.now(), resolve, reject });
      if (this.scheduled || this.inFlight >= this.limits.maxInFlight) return;
      this.scheduled = true;
      // Nothing under way: at once, with what the same piece of code submits beside it. Else with all that this turn of
      // the event loop brings.
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
      else await pLimit(ALONE_AT_ONCE).map(batch, (one) => this.settleAlone(one, error));
    }
  }

  private async settleAlone(one: Waiting<Item, Result>, error: unknown): Promise<void> {
    if (this.isHeld(one.item)) one.reject(error);
    else await this.settle([one], true);
  }

  private takeOverdue(): readonly Waiting<Item, Result>[] {
    const overdue = performance.now() - this.limits.maxWaitMs;
    const kept = this.waiting.findIndex(({ since }) => since > overdue);
    return this.waiting.splice(0, kept === -1 ? this.waiting.length : kept);
  }
}
