import { beforeAll, expect, it } from '@jest/globals';
import type { Fault } from '../support/cutting-proxy.js';
import {
  type Answer,
  expectFailure,
  newPicture,
  sha256,
  type TwoInstances,
} from '../support/two-instances.js';

/** The uploads sent during a fault, with their responses. */
class FailedUploads {
  readonly answers = new Map<string, Answer>();
  readonly pictures = new Map<string, Buffer>();
  hits = 0;

  static readonly NAMES = [
    'without a key',
    'with a key',
    'later, without a key',
    'later, with a key',
  ] as const;

  static async make(instances: TwoInstances, fault: Fault): Promise<FailedUploads> {
    const uploads = new FailedUploads();
    for (const name of FailedUploads.NAMES) uploads.pictures.set(name, await newPicture());
    instances.proxy.fail(fault);
    try {
      await Promise.all(
        FailedUploads.NAMES.map(async (name) => {
          uploads.answers.set(
            name,
            await instances.upload(uploads.picture(name), { key: uploads.key(name) }),
          );
        }),
      );
    } finally {
      uploads.hits = instances.proxy.hits;
      instances.proxy.pass();
    }
    return uploads;
  }

  picture(name: string): Buffer {
    return this.pictures.get(name) ?? Buffer.alloc(0);
  }

  key(name: string): string | undefined {
    return name.endsWith('with a key') ? sha256(this.picture(name)) : undefined;
  }
}

/** The three guarantees under every fault of every backend. */
export function describeFault(
  getInstances: () => TwoInstances,
  fault: Fault,
  { code, onlyWithKey = false }: { code: string; onlyWithKey?: boolean },
): void {
  let instances: TwoInstances;
  let failed: FailedUploads;

  beforeAll(async () => {
    instances = getInstances();
    failed = await FailedUploads.make(instances, fault);
  });

  it(`are answered 503 ${code}`, () => {
    expect(failed.hits).toBeGreaterThan(0);
    for (const name of FailedUploads.NAMES) {
      if (onlyWithKey && failed.key(name) === undefined) {
        expect(failed.answers.get(name)?.status).toBe(200);
      } else {
        expectFailure(failed.answers.get(name), 503, code);
      }
    }
  });

  it.each(['without a key', 'with a key'])('work with an immediate retry, %s', async (name) => {
    const bytes = failed.picture(name);
    const [committed] = (await instances.rowsOf(bytes)).filter(({ state }) => state === 'stored');
    const { id } = await instances.expectReadable(await instances.upload(bytes, { key: failed.key(name) }));
    if (committed) expect(id).toBe(committed.id);
    await instances.expectTidyAfterSweep();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('leave a whole image or nothing after a sweep, and a later retry works', async () => {
    await instances.expectTidyAfterSweep();
    for (const name of ['later, without a key', 'later, with a key']) {
      const bytes = failed.picture(name);
      const committed = await instances.rowsOf(bytes);
      const { id } = await instances.expectReadable(await instances.upload(bytes, { key: failed.key(name) }));
      if (committed[0]) expect(id).toBe(committed[0].id);
      expect(await instances.rowsOf(bytes)).toHaveLength(1);
    }
    await instances.expectTidyAfterSweep();
  });
}
