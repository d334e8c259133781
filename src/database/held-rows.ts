import { LRUCache } from 'lru-cache';
import pLimit, { type LimitFunction } from 'p-limit';
import { lockedTable } from './database-failure.js';

/** A row that a statement may have to wait for: its table, and what the statement knows it by, such as `users 2`. */
export type RowName = `${'users' | 'chat_images'} ${string | number}`;

/** For how long a row counts as held after the last statement that failed on its lock, and how many are remembered. */
const REMEMBERED_MS = 3000;
const MAX_REMEMBERED = 1000;

/** The longest wait for a turn. The statement's own wait for the lock comes after it. */
const MAX_WAIT_MS = 1000;

/** A row whose lock another transaction holds. */
type Held = {
  /** Statements about one row wait one after the other: each would wait for the same lock. */
  readonly turn: LimitFunction;
  readonly error: unknown;
};

/**
 * Rows that another transaction has locked, with `SELECT … FOR UPDATE` or a deletion that is not committed. A new row with a
 * foreign key to such a row waits for the lock. Requests about held rows wait apart from all others: few statements at the
 * same time, on few connections, until the lock is released or their time is over.
 */
export class HeldRows {
  private readonly held = new LRUCache<RowName, Held>({ max: MAX_REMEMBERED, ttl: REMEMBERED_MS });
  private readonly lane: LimitFunction;

  /** @param statements how many statements may wait for locks at the same time */
  constructor(statements: number) {
    this.lane = pLimit(statements);
  }

  /** Whether one of the rows is known to be held. */
  isHeld(rows: readonly RowName[]): boolean {
    return this.find(rows) !== undefined;
  }

  /**
   * Runs a statement of one request.
   *
   * @param rows that the statement may have to wait for
   * @param quick runs it with a short lock timeout, perhaps together with others
   * @param alone runs it with a long lock timeout, by itself
   * @param hadRows whether a result shows that the statement had the rows' locks: they are held no more then
   */
  async run<T>(
    rows: readonly RowName[],
    quick: () => Promise<T>,
    alone: () => Promise<T>,
    hadRows: (result: T) => boolean = () => false,
  ): Promise<T> {
    const since = performance.now();
    let held = this.find(rows);
    if (!held) {
      try {
        return await quick();
      } catch (error) {
        if (lockedTable(error) === undefined) throw error;
        held = this.find(rows) ?? this.remember(rows, error);
      }
    }
    const { turn, error } = held;
    return turn(() =>
      this.lane(async () => {
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

  /** @returns what is remembered of the row; where none of the rows is of the locked table, something that is for this request alone */
  private remember(rows: readonly RowName[], error: unknown): Held {
    const table = lockedTable(error);
    const [first, ...others] = rows.filter((row) => table === '' || row.startsWith(`${table} `));
    if (first === undefined) return { turn: pLimit(1), error };
    const held = { turn: this.held.get(first)?.turn ?? pLimit(1), error };
    for (const row of [first, ...others]) this.held.set(row, held);
    return held;
  }
}
