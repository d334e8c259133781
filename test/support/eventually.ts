import { setTimeout } from 'node:timers/promises';

/** The limit for a condition that never holds. */
const LIMIT_MS = 30_000;

/**
 * Waits for a condition, and returns its value.
 *
 * @param what names the condition in the error
 * @throws Error when it does not hold in time
 */
export async function eventually<T>(
  condition: () => Promise<T | false | undefined> | T | false | undefined,
  what = String(condition),
  withinMs = LIMIT_MS,
): Promise<T> {
  for (const deadline = Date.now() + withinMs; ;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`Waited ${withinMs} ms in vain for ${what}.`);
    await setTimeout(2);
  }
}
