import { afterEach, describe, expect, it } from '@jest/globals';
import { setImmediate } from 'node:timers/promises';
import { DecodeQueue, type DecodeQueueLimits } from './decode-queue.js';

const LIGHT = 10;
const HEAVY = 60;
const LIMITS: DecodeQueueLimits = {
  slots: 3,
  slotsPerUser: 2,
  lightBytes: LIGHT,
  heavyBytes: 100,
  maxWaitMs: 60_000,
};

/** A queue whose tasks the test ends. */
class Bench {
  readonly started: string[] = [];
  private unsettled = 0;
  private readonly ends = new Map<string, () => void>();
  private readonly queue: DecodeQueue;

  constructor(limits: Partial<DecodeQueueLimits> = {}) {
    this.queue = new DecodeQueue({ ...LIMITS, ...limits });
  }

  /** Sends a picture. The first letter of its name is its user. */
  send(name: string, { bytes = LIGHT, left = new AbortController().signal } = {}): Promise<string> {
    const picture = this.queue.run(name.charCodeAt(0), bytes, left, async () => {
      this.started.push(name);
      await new Promise<void>((resolve) => this.ends.set(name, resolve));
      return name;
    });
    const settle = (): unknown => (this.unsettled -= 1);
    this.unsettled += 1;
    picture.then(settle, settle);
    return picture;
  }

  /** Ends all tasks, as a waiting task would be rejected during another suite. */
  async close(): Promise<void> {
    while (this.unsettled > 0) {
      for (const end of this.ends.values()) end();
      await setImmediate();
    }
  }

  async end(name: string): Promise<void> {
    this.ends.get(name)?.();
    await setImmediate();
  }
}

describe('the decode queue', () => {
  const benches: Bench[] = [];
  const open = (limits: Partial<DecodeQueueLimits> = {}): Bench => {
    const bench = new Bench(limits);
    benches.push(bench);
    return bench;
  };

  afterEach(() => Promise.all(benches.splice(0).map((bench) => bench.close())));

  it('keeps a slot for other users, however many pictures a user sends', async () => {
    const bench = open();
    for (const name of ['a1', 'a2', 'a3', 'a4']) void bench.send(name);
    await setImmediate();
    expect(bench.started).toEqual(['a1', 'a2']);
    void bench.send('b1');
    await setImmediate();
    expect(bench.started).toEqual(['a1', 'a2', 'b1']);
    await bench.end('b1');
    expect(bench.started).toEqual(['a1', 'a2', 'b1']);
    await bench.end('a1');
    expect(bench.started).toEqual(['a1', 'a2', 'b1', 'a3']);
  });

  it('lets users take turns', async () => {
    const bench = open({ slots: 1, slotsPerUser: 1 });
    for (const name of ['a1', 'a2', 'a3', 'b1', 'b2', 'c1']) void bench.send(name);
    await setImmediate();
    for (const name of ['a1', 'a2', 'b1', 'c1', 'a3']) await bench.end(name);
    expect(bench.started).toEqual(['a1', 'a2', 'b1', 'c1', 'a3', 'b2']);
  });

  it('runs heavy pictures together only within the memory, and lets light pictures pass', async () => {
    const bench = open();
    void bench.send('a1', { bytes: HEAVY });
    void bench.send('b1', { bytes: HEAVY });
    void bench.send('c1', { bytes: 20 });
    void bench.send('d1');
    await setImmediate();
    // c1 would fit, but b1 came first.
    expect(bench.started).toEqual(['a1', 'd1']);
    await bench.end('a1');
    expect(bench.started).toEqual(['a1', 'd1', 'b1', 'c1']);
  });

  it('runs a picture that exceeds the whole memory alone', async () => {
    const bench = open();
    void bench.send('a1', { bytes: 101 });
    void bench.send('b1', { bytes: 11 });
    await setImmediate();
    expect(bench.started).toEqual(['a1']);
    await bench.end('a1');
    expect(bench.started).toEqual(['a1', 'b1']);
  });

  it('rejects a picture after maxWaitMs, and takes the next picture', async () => {
    const bench = open({ slots: 1, slotsPerUser: 1, maxWaitMs: 20 });
    void bench.send('a1');
    await expect(bench.send('b1')).rejects.toMatchObject({ failure: 'overloaded' });
    void bench.send('c1');
    await bench.end('a1');
    expect(bench.started).toEqual(['a1', 'c1']);
  });

  it('rejects pictures of clients that have disconnected', async () => {
    const bench = open({ slots: 1, slotsPerUser: 1 });
    void bench.send('a1');
    const client = new AbortController();
    const leaver = bench.send('b1', { left: client.signal });
    void bench.send('c1');
    client.abort();
    await expect(leaver).rejects.toMatchObject({ failure: 'sender-left' });
    await expect(bench.send('d1', { left: client.signal })).rejects.toMatchObject({ failure: 'sender-left' });
    await bench.end('a1');
    expect(bench.started).toEqual(['a1', 'c1']);
    await bench.end('c1');
    expect(bench.started).toEqual(['a1', 'c1']);
  });

  it('frees the slot after a failed task', async () => {
    const queue = new DecodeQueue({ ...LIMITS, slots: 1, slotsPerUser: 1 });
    const { signal } = new AbortController();
    const failing = queue.run(1, HEAVY, signal, () => Promise.reject(new Error('failed')));
    const next = queue.run(2, HEAVY, signal, () => Promise.resolve('done'));
    await expect(failing).rejects.toThrow('failed');
    await expect(next).resolves.toBe('done');
  });
});
