import { describe, expect, it } from '@jest/globals';
import { RESERVED_BYTES, UploadBudget, type UploadMemory } from './upload-budget.js';

const MIB = 1024 * 1024;
const SOON_MS = 20;

/** Whether a promise is still waiting after everything that could settle it has run. */
async function waits(promise: Promise<unknown>): Promise<boolean> {
  const settled = promise.then(
    () => false,
    () => false,
  );
  return Promise.race([
    settled,
    new Promise<boolean>((resolve) => setImmediate(() => setImmediate(resolve, true))),
  ]);
}

describe('UploadBudget', () => {
  /** Room for two pictures of 10 MiB beside the reserve. */
  const newBudget = (maxWaitMs = 5000): UploadBudget =>
    new UploadBudget(RESERVED_BYTES + 100 * MIB, maxWaitMs);

  it('lets uploads in at once while there is room, and counts what they hold', async () => {
    const budget = newBudget();
    const first = budget.begin();
    await first.receive(10 * MIB);
    await budget.begin().receive(10 * MIB);
    expect(budget.inUse).toBe(100 * MIB);
    first.release();
    first.release();
    expect(budget.inUse).toBe(50 * MIB);
  });

  it('lets the first that waits use the reserve, and the others wait until there is room', async () => {
    const budget = newBudget();
    const holder = budget.begin();
    await holder.receive(20 * MIB);
    const [second, third] = [budget.begin(), budget.begin()];
    await second.receive(10 * MIB);
    const blocked = third.receive(1);
    expect(await waits(blocked)).toBe(true);
    expect(budget.inUse).toBeLessThanOrEqual(RESERVED_BYTES + 100 * MIB);
    holder.release();
    await blocked;
  });

  it('hands the reserve on when the upload that had it is done', async () => {
    const budget = newBudget();
    await budget.begin().receive(20 * MIB);
    const second = budget.begin();
    await second.receive(10 * MIB);
    const third = budget.begin();
    const blocked = third.receive(10 * MIB);
    expect(await waits(blocked)).toBe(true);
    second.release();
    await blocked;
  });

  it('ends a wait that is too long with OVERLOADED, and forgets the one that waited', async () => {
    const budget = newBudget(SOON_MS);
    await budget.begin().receive(20 * MIB);
    await budget.begin().receive(10.25 * MIB);
    const late = budget.begin();
    await expect(late.receive(1 * MIB)).rejects.toMatchObject({
      code: 'OVERLOADED',
      status: 503,
      retryAfterSeconds: expect.any(Number),
    });
    late.release();
    expect(budget.inUse).toBe(20 * 5 * MIB + 10.25 * 5 * MIB);
  });

  it('brings all of a hundred uploads of 10 MiB through, never over its capacity', async () => {
    const budget = newBudget();
    let highest = 0;
    const upload = async (memory: UploadMemory): Promise<void> => {
      for (let received = 0; received < 10 * MIB; received += MIB) {
        await memory.receive(MIB);
        highest = Math.max(highest, budget.inUse);
        await new Promise(setImmediate);
      }
      memory.release();
    };
    await Promise.all(Array.from({ length: 100 }, () => upload(budget.begin())));
    expect(highest).toBeLessThanOrEqual(RESERVED_BYTES + 100 * MIB);
    expect(budget.inUse).toBe(0);
  });

  it('is not held by an upload that was given up while it waited', async () => {
    const budget = newBudget();
    const holder = budget.begin();
    await holder.receive(20 * MIB);
    const reserve = budget.begin();
    await reserve.receive(10.25 * MIB);
    const gone = budget.begin();
    const pending = gone.receive(MIB);
    gone.release();
    holder.release();
    await pending;
    reserve.release();
    expect(budget.inUse).toBe(0);
  });
});
