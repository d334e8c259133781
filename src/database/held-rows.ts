import { LRUCache } from 'lru-cache';
import pLimit, { type LimitFunction } from 'p-limit';
import { lockedTable } from './database-failure.js';

/** A row that a statement locks: its table and its key in the statement, such as `users 2`. */
export type RowName = `${'users' | 'chat_images'} ${string | number}`;

/** How long a row counts as locked after the last lock timeout, and how many locked rows are remembered. */
const REMEMBERED_MS = 3000;
const MAX_REMEMBERED = 1000;

/** Maximum wait in the queue. The statement's lock timeout comes on top. */
const MAX_WAIT_MS = 1000;

/** A row that another transaction has locked. */
type Held = {
  /** Runs the statements on one row one after the other: all of them wait for the same lock. */
  readonly queue: LimitFunction;
  /** The last lock timeout. */
  readonly error: unknown;
};

/**
 * Rows that another transaction has locked, with `SELECT … FOR UPDATE` or an uncommitted DELETE. An INSERT with a foreign
 * key to such a row waits for the lock. Requests on locked rows wait apart from all other requests, on few connections.
 * The wait ends when the lock is released or the request times out.
 */
export class HeldRows {
  private readonly held = new LRUCache<RowName, Held>({ max: MAX_REMEMBERED, ttl: REMEMBERED_MS });
  private readonly lockWaits: LimitFunction;

  /** @param statements maximum number of statements that wait for locks at the same time */
  constructor(statements: number) {
    this.lockWaits = pLimit(statements);
  }

  /** Whether one of the rows is known to be locked. */
  isHeld(rows: readonly RowName[]): boolean {
    return this.find(rows) !== undefined;
  }

  /**
   * Runs a statement of one request.
   *
   * @param rows rows that the statement locks
   * @param shared runs the statement with a short lock timeout, perhaps for several requests
   * @param alone runs the statement with a long lock timeout, for this request only
   * @param hadRows whether a result proves that the statement acquired the locks. The rows then count as free again.
   */
  async run<T>(
    rows: readonly RowName[],
    shared: () => Promise<T>,
    alone: () => Promise<T>,
    hadRows: (result: T) => boolean = () => false,
  ): Promise<T> {
    const since = performance.now();
    let held = this.find(rows);
    if (!held) {
      try {
        return await shared();
      } catch (error) {
        if (lockedTable(error) === undefined) throw error;
        held = this.find(rows) ?? this.remember(rows, error);
      }
    }
    const { queue, error } = held;
    return queue(() =>
      this.lockWaits(async () => {
        if (performance.now() - since > MAX_WAIT_MS) throw error;
        try {
          const result = await alone();
          if (hadRows(result)) for (const row of rows) this.held.delete(row);
          return result;
        } catch (failure) {
          if (lockedTable(failure) !== undefined) this.remember(rows, failure);
          throw failure;
        }
      }),
    );
  }

  private find(rows: readonly RowName[]): Held | undefined {
    if (this.held.size === 0) return undefined;
    for (const row of rows) {
      const held = this.held.get(row);
      if (held) return held;
    }
    return undefined;
  }

  /** @returns the entry of the locked row; an entry for this request only, when none of the rows is in the locked table */
  private remember(rows: readonly RowName[], error: unknown): Held {
    const table = lockedTable(error);
    const [first, ...others] = rows.filter((row) => table === '' || row.startsWith(`${table} `));
    if (first === undefined) return { queue: pLimit(1), error };
    const held = { queue: this.held.get(first)?.queue ?? pLimit(1), error };
    for (const row of [first, ...others]) this.held.set(row, held);
    return held;
  }
}
