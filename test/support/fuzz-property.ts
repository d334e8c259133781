import fc from 'fast-check';

/*
 * Inputs nobody would write by hand. The same ones each time, so that a red run is never luck:
 *   FUZZ_RUNS=20   as many times more inputs, with a seed drawn for the occasion and printed
 *   FUZZ_SEED=123  that seed again
 * A failure names its seed and the path to the smallest input that shows it.
 */
const FACTOR = Number(process.env.FUZZ_RUNS ?? 1);
const SEED = fuzzSeed();

/** How long an answer may take, and a picture. */
export const LIMIT_MS = 5000;
/** Shrinking a failure that is a hang takes one such limit a step: it is cut short here. */
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

/** Usually a value that does no harm, so that the other oddities come to bear. */
export const mostly = <T, U>(usual: T, odd: fc.Arbitrary<U>): fc.Arbitrary<T | U> =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: odd });
