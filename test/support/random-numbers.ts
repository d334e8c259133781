/** Returns a whole number from 0 to below the bound. */
export type RandomNumbers = (below: number) => number;

/**
 * A linear congruential generator: random-looking numbers that are the same in every run.
 *
 * @param seeds each combination gives other numbers
 */
export function randomNumbers(...seeds: readonly number[]): RandomNumbers {
  let state = seeds.reduce((mixed, seed) => Math.imul(mixed ^ seed, 2_654_435_761) >>> 0, 1);
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Picks one of several values. */
export function pick<T>(random: RandomNumbers, from: readonly T[]): T {
  return from[random(from.length)] as T;
}
