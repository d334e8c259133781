import fc from 'fast-check';

/*
 * Random inputs, the same in each run, so that a failure can be repeated:
 *   FUZZ_RUNS=20   20 times more inputs, with a random seed that is printed
 *   FUZZ_SEED=123  the inputs of that seed
 * A failure names its seed and the path to its smallest input.
 */
const FACTOR = Number(process.env.FUZZ_RUNS ?? 1);
const SEED = fuzzSeed();

/** The longest time for a response or a picture. */
export const LIMIT_MS = 5000;
/** The limit for a property, as each step to shrink a hang takes LIMIT_MS. */
export const PROPERTY_LIMIT_MS = 60_000 * FACTOR;

function fuzzSeed(): number {
  if (process.env.FUZZ_SEED !== undefined) return Number(process.env.FUZZ_SEED);
  return process.env.FUZZ_RUNS === undefined ? 20_251_105 : Math.floor(Math.random() * 2 ** 31);
}

export function holds<T extends [unknown, ...unknown[]]>(
  property: fc.IAsyncProperty<T>,
  numRuns: number,
  examples: T[] = [],
): Promise<void> {
  return fc.assert(property, {
    seed: SEED,
    examples,
    numRuns: Math.ceil(numRuns * FACTOR),
    interruptAfterTimeLimit: PROPERTY_LIMIT_MS,
    markInterruptAsFailure: true,
  });
}

if (process.env.FUZZ_RUNS !== undefined) process.stderr.write(`FUZZ_SEED=${SEED}\n`);

/** Usually a harmless value, so that other odd values have an effect. */
export const mostly = <T, U>(usual: T, odd: fc.Arbitrary<U>): fc.Arbitrary<T | U> =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: odd });
