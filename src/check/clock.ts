import { type Finding, ok, warning, wrong } from './finding.js';

/** Apart by more, times in answers are visibly wrong; tokens' `nbf` and `iat` have a minute of leeway. */
const NOTICEABLE_MS = 2000;

/** Apart by more, tokens are refused and signed URLs end too early, or work before they are made. */
const HARMFUL_MS = 30_000;

/** The time of another machine, and when this one asked and had the answer, in milliseconds since 1970. */
export type ClockReading = {
  readonly theirs: number;
  /** How far the clock may be ahead of what it said: S3 tells whole seconds. */
  readonly resolutionMs: number;
  readonly askedAt: number;
  readonly answeredAt: number;
};

/** The SQL that tells the database's clock, in milliseconds since 1970. */
export const DATABASE_CLOCK = 'SELECT extract(epoch FROM clock_timestamp()) * 1000 AS now';

/**
 * Reads the clock of a database.
 *
 * @param ask for what {@link DATABASE_CLOCK} tells
 */
export async function readDatabaseClock(ask: () => Promise<number>): Promise<ClockReading> {
  const askedAt = Date.now();
  const theirs = await ask();
  return { theirs, resolutionMs: 0, askedAt, answeredAt: Date.now() };
}

/**
 * Compares this machine's clock with another's.
 *
 * @param whose the other clock, e.g. `the database`
 */
export function judgeClock(name: string, whose: string, reading: ClockReading): Finding {
  const ahead = aheadMs(reading);
  const apart = Math.abs(ahead);
  const seconds = `${(apart / 1000).toFixed(1)} s`;
  if (apart <= NOTICEABLE_MS) return ok(name, `agrees with the clock of ${whose} (less than 2 s apart)`);
  const difference = `this machine's clock is ${seconds} ${ahead > 0 ? 'ahead of' : 'behind'} that of ${whose}: let both follow NTP`;
  return apart > HARMFUL_MS ? wrong(name, difference) : warning(name, difference);
}

/** How far this machine is ahead, at least: the time that the answer took, and the clock's own steps, count for neither. */
function aheadMs({ theirs, resolutionMs, askedAt, answeredAt }: ClockReading): number {
  const atMost = answeredAt - theirs;
  const atLeast = askedAt - theirs - resolutionMs;
  if (atLeast > 0) return atLeast;
  return atMost < 0 ? atMost : 0;
}
