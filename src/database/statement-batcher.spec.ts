import { describe, expect, it } from '@jest/globals';
import { setImmediate } from 'node:timers/promises';
import { eventually } from '../../test/support/eventually.js';
import { StatementBatcher } from './statement-batcher.js';

/** A statement that ends when the test says so. */
class Statements {
  readonly batches: string[][] = [];
  private readonly ends: { resolve: (results: string[]) => void; reject: (error: unknown) => void }[] = [];

  readonly run = (items: readonly string[]): Promise<string[]> => {
    this.batches.push([...items]);
    return new Promise((resolve, reject) => this.ends.push({ resolve, reject }));
  };

  /** Ends the statement that was started as the `index`th, with an upper-case letter for each item. */
  async end(index: number, error?: Error): Promise<void> {
    const items = this.batches[index] ?? [];
    if (error) this.ends[index]?.reject(error);
    else this.ends[index]?.resolve(items.map((item) => item.toUpperCase()));
    await setImmediate();
  }
}

const lost = new Error('connection lost');
const make = (statements: Statements, maxWaitMs = Infinity): StatementBatcher<string, string> =>
  new StatementBatcher(statements.run, (error) => error === lost, { maxItems: 3, maxInFlight: 2, maxWaitMs });

describe('the statement batcher', () => {
  it('starts at once when idle, with all items of the same tick', async () => {
    const statements = new Statements();
    const batcher = make(statements);
    const results = Promise.all([batcher.submit('a'), batcher.submit('b')]);
    await Promise.resolve();
    expect(statements.batches).toEqual([['a', 'b']]);
    await statements.end(0);
    expect(await results).toEqual(['A', 'B']);
  });

  it('collects items while a statement runs, and starts them at its end', async () => {
    const statements = new Statements();
    const batcher = make(statements);
    const results = [batcher.submit('a')];
    await setImmediate();
    results.push(batcher.submit('b'));
    await setImmediate();
    results.push(batcher.submit('c'));
    expect(statements.batches).toEqual([['a']]);
    await statements.end(0);
    expect(statements.batches).toEqual([['a'], ['b', 'c']]);
    await statements.end(1);
    expect(await Promise.all(results)).toEqual(['A', 'B', 'C']);
  });

  it('starts them beside a statement that takes long, and no more than maxInFlight', async () => {
    const statements = new Statements();
    const batcher = make(statements);
    const results = [batcher.submit('a')];
    await setImmediate();
    results.push(batcher.submit('b'), batcher.submit('c'));
    await eventually(() => statements.batches.length === 2);
    results.push(batcher.submit('d'));
    await statements.end(1);
    expect(statements.batches).toEqual([['a'], ['b', 'c'], ['d']]);
    await statements.end(0);
    await statements.end(2);
    expect(await Promise.all(results)).toEqual(['A', 'B', 'C', 'D']);
  });

  it('keeps to maxInFlight statements and maxItems items', async () => {
    const statements = new Statements();
    const batcher = make(statements);
    const results = Promise.all(Array.from('abcdefghij', (item) => batcher.submit(item)));
    await setImmediate();
    expect(statements.batches).toEqual([
      ['a', 'b', 'c'],
      ['d', 'e', 'f'],
    ]);
    await statements.end(1);
    expect(statements.batches.slice(2)).toEqual([['g', 'h', 'i']]);
    await statements.end(0);
    expect(statements.batches.slice(3)).toEqual([['j']]);
    await statements.end(2);
    await statements.end(3);
    expect(await results).toEqual(Array.from('ABCDEFGHIJ'));
  });

  it('retries each item alone when a single item may have failed the batch', async () => {
    const statements = new Statements();
    const batcher = make(statements);
    const results = Promise.allSettled(['a', 'bad', 'c'].map((item) => batcher.submit(item)));
    await setImmediate();
    await statements.end(0, new Error('violates foreign key'));
    expect(statements.batches.slice(1)).toEqual([['a'], ['bad'], ['c']]);
    await statements.end(1);
    await statements.end(2, new Error('still violates it'));
    await statements.end(3);
    expect(await results).toEqual([
      { status: 'fulfilled', value: 'A' },
      { status: 'rejected', reason: new Error('still violates it') },
      { status: 'fulfilled', value: 'C' },
    ]);
    expect(statements.batches).toHaveLength(4);
  });

  it('retries a few items of a failed batch at once, and skips held items', async () => {
    const statements = new Statements();
    const held = new Set<string>();
    const batcher = new StatementBatcher(
      statements.run,
      () => false,
      { maxItems: 10, maxInFlight: 1, maxWaitMs: Infinity },
      (item: string) => held.has(item),
    );
    const ofBatch = new Error('the lock of the batch');
    const results = Promise.allSettled(Array.from('abcdefg', (item) => batcher.submit(item)));
    await setImmediate();
    await statements.end(0, ofBatch);
    expect(statements.batches.slice(1)).toEqual([['a'], ['b'], ['c'], ['d']]);
    for (const item of 'ef') held.add(item);
    await statements.end(1, new Error('the lock of a'));
    expect(statements.batches.slice(5)).toEqual([['g']]);
    for (const index of [2, 3, 4, 5]) await statements.end(index);
    const outcomes = (await results).map((result): unknown =>
      result.status === 'rejected' ? result.reason : result.value,
    );
    expect(outcomes).toEqual([new Error('the lock of a'), 'B', 'C', 'D', ofBatch, ofBatch, 'G']);
  });

  it('does not retry after a lost connection, and runs later items', async () => {
    const statements = new Statements();
    const batcher = make(statements);
    const results = Promise.allSettled(['a', 'b'].map((item) => batcher.submit(item)));
    await setImmediate();
    await statements.end(0, lost);
    expect(await results).toEqual([
      { status: 'rejected', reason: lost },
      { status: 'rejected', reason: lost },
    ]);
    const later = batcher.submit('c');
    await setImmediate();
    expect(statements.batches).toEqual([['a', 'b'], ['c']]);
    await statements.end(1);
    expect(await later).toBe('C');
  });

  it('fails items that have waited for maxWaitMs when a batch loses its connection', async () => {
    const outcome = async (maxWaitMs: number): Promise<readonly string[]> => {
      const statements = new Statements();
      const batcher = make(statements, maxWaitMs);
      const results = Promise.allSettled(Array.from('abcdefgh', (item) => batcher.submit(item)));
      await setImmediate();
      await statements.end(0, lost);
      await statements.end(1);
      await statements.end(2);
      return (await results).map(({ status }) => status);
    };
    const [failed, answered] = ['rejected', 'fulfilled'];
    const firstTwo = [failed, failed, failed, answered, answered, answered];
    expect(await outcome(0)).toEqual([...firstTwo, failed, failed]);
    expect(await outcome(60_000)).toEqual([...firstTwo, answered, answered]);
  });

  it('refuses an item for which the statement has no result', async () => {
    const batcher = new StatementBatcher(
      () => Promise.resolve(['only one']),
      () => true,
      { maxItems: 3, maxInFlight: 1, maxWaitMs: Infinity },
    );
    const results = await Promise.allSettled([batcher.submit('a'), batcher.submit('b')]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  });
});
