import { describe, expect, it } from '@jest/globals';
import { reservedBytes, UploadBudget, type UploadMemory } from './upload-budget.js';

const MIB = 1024 * 1024;
const SOON_MS = 20;

/** Whether a promise is still pending after all other tasks have run. */
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
  /** Memory for two pictures of 10 MiB besides the reserve. */
  const RESERVED_BYTES = reservedBytes(10 * MIB);
  const CAPACITY = RESERVED_BYTES + 100 * MIB;
  const newBudget = (maxWaitMs = 5000): UploadBudget => new UploadBudget(CAPACITY, RESERVED_BYTES, maxWaitMs);

  let users = 0;
  /** An upload of a user without other uploads. */
  const uploadOf = async (budget: UploadBudget, user = (users += 1)): Promise<UploadMemory> => {
    const memory = budget.begin(user);
    await memory.enter(10 * MIB);
    return memory;
  };
  const holding = async (budget: UploadBudget, bytes: number): Promise<UploadMemory> => {
    const memory = await uploadOf(budget);
    await memory.receive(bytes);
    return memory;
  };

  it('admits uploads at once while memory is free, and counts their memory', async () => {
    const budget = newBudget();
    const first = await holding(budget, 10 * MIB);
    await holding(budget, 10 * MIB);
    expect(budget.inUse).toBe(100 * MIB);
    first.release();
    first.release();
    expect(budget.inUse).toBe(50 * MIB);
  });

  it('gives the reserve to the first waiting upload, while later uploads wait', async () => {
    const budget = newBudget();
    const [holder] = [await holding(budget, 10 * MIB), await holding(budget, 10 * MIB)];
    await holding(budget, 10 * MIB);
    const third = await uploadOf(budget);
    const blocked = third.receive(MIB);
    expect(await waits(blocked)).toBe(true);
    expect([third.waits, budget.inUse <= CAPACITY]).toEqual([true, true]);
    holder.release();
    await blocked;
    expect(third.waits).toBe(false);
  });

  it('passes on the reserve when its upload ends', async () => {
    const budget = newBudget();
    await holding(budget, 10 * MIB);
    await holding(budget, 10 * MIB);
    const second = await holding(budget, 10 * MIB);
    const blocked = (await uploadOf(budget)).receive(10 * MIB);
    expect(await waits(blocked)).toBe(true);
    second.release();
    await blocked;
  });

  it('passes on the reserve when other memory is free, although its upload is stalled', async () => {
    const budget = newBudget();
    const others = [await holding(budget, 10 * MIB), await holding(budget, 10 * MIB)];
    const still = await uploadOf(budget);
    await still.receive(MIB);
    for (const other of others) other.release();
    await holding(budget, 10 * MIB);
    await holding(budget, 9 * MIB);
    // The memory besides the reserve is spent, so this upload gets the reserve.
    await holding(budget, 10 * MIB);
  });

  it('ends a long wait with 503 OVERLOADED, and forgets the waiting upload', async () => {
    const budget = newBudget(SOON_MS);
    await holding(budget, 10 * MIB);
    await holding(budget, 10 * MIB);
    await holding(budget, 10 * MIB);
    const late = await uploadOf(budget);
    await expect(late.receive(MIB)).rejects.toMatchObject({
      code: 'OVERLOADED',
      status: 503,
      retryAfterSeconds: expect.any(Number),
    });
    late.release();
    expect(budget.inUse).toBe(150 * MIB);
  });

  it('completes 100 uploads of 10 MiB without exceeding its capacity', async () => {
    const budget = newBudget();
    let highest = 0;
    const upload = async (user: number): Promise<void> => {
      const memory = await uploadOf(budget, user);
      for (let received = 0; received < 10 * MIB; received += MIB) {
        await memory.receive(MIB);
        highest = Math.max(highest, budget.inUse);
        await new Promise(setImmediate);
      }
      memory.release();
    };
    // Each user sends four uploads.
    await Promise.all(Array.from({ length: 100 }, (_, index) => upload(index % 25)));
    expect(highest).toBeLessThanOrEqual(CAPACITY);
    expect(budget.inUse).toBe(0);
  });

  it('is not held by an upload that was cancelled while it waited', async () => {
    const budget = newBudget();
    const holders = [await holding(budget, 10 * MIB), await holding(budget, 10 * MIB)];
    const reserve = await holding(budget, 10 * MIB);
    const gone = await uploadOf(budget);
    const pending = gone.receive(MIB);
    gone.release();
    await expect(pending).rejects.toThrow('given up');
    for (const memory of [...holders, reserve]) memory.release();
    expect(budget.inUse).toBe(0);
  });

  describe("a user's share", () => {
    const USER = 1_000_000;

    it('is half of the memory: more uploads wait unread, and other users go on', async () => {
      const budget = newBudget();
      const first = await uploadOf(budget, USER);
      first.authorize();
      await first.receive(10 * MIB);
      const second = uploadOf(budget, USER);
      expect(await waits(second)).toBe(true);
      await holding(budget, 10 * MIB);
      first.release();
      await (await second).receive(10 * MIB);
    });

    it('is a large picture until the appointment is authorised', async () => {
      const budget = new UploadBudget(8 * RESERVED_BYTES, RESERVED_BYTES, 5000);
      const first = await uploadOf(budget, USER);
      const second = uploadOf(budget, USER);
      expect(await waits(second)).toBe(true);
      first.authorize();
      const memory = await second;
      expect(await waits(uploadOf(budget, USER))).toBe(true);
      memory.authorize();
    });

    it('is at most sixteen uploads, however small', async () => {
      const budget = newBudget();
      const small = async (): Promise<UploadMemory> => {
        const memory = budget.begin(USER);
        await memory.enter(1);
        memory.authorize();
        return memory;
      };
      const sixteen = await Promise.all(Array.from({ length: 16 }, small));
      const next = small();
      expect(await waits(next)).toBe(true);
      await holding(budget, 10 * MIB);
      sixteen[0]?.release();
      await next;
    });

    it('is answered 429 after the wait when it stays spent', async () => {
      const budget = newBudget(SOON_MS);
      const first = await uploadOf(budget, USER);
      await expect(uploadOf(budget, USER)).rejects.toMatchObject({
        code: 'TOO_MANY_REQUESTS',
        retryAfterSeconds: expect.any(Number),
      });
      first.release();
      await uploadOf(budget, USER);
    });

    it('is not held by an upload that was cancelled while it waited for the share', async () => {
      const budget = newBudget();
      const first = await uploadOf(budget, USER);
      const gone = budget.begin(USER);
      const entering = gone.enter(10 * MIB);
      gone.release();
      await expect(entering).rejects.toThrow('given up');
      first.release();
      await uploadOf(budget, USER);
    });
  });
});
