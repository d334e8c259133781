import { type Finding, ok, warning, wrong } from './finding.js';

/** Above this difference, times in responses are visibly wrong. `nbf` and `iat` of tokens have a minute of leeway. */
const NOTICEABLE_MS = 2000;

/** Above this difference, tokens are refused, and signed URLs expire too early or are not valid yet. */
const HARMFUL_MS = 30_000;

/** The time of another machine, and this machine's time before the request and after the response, in ms since 1970. */
export type ClockReading = {
  readonly theirs: number;
  /** Resolution of the reading: S3 sends whole seconds. */
  readonly resolutionMs: number;
  readonly askedAt: number;
  readonly answeredAt: number;
};

/** The SQL that reads the database's clock, in milliseconds since 1970. */
export const DATABASE_CLOCK = 'SELECT extract(epoch FROM clock_timestamp()) * 1000 AS now';

/**
 * Reads the clock of a database.
 *
 * @param ask runs {@link DATABASE_CLOCK}
 */
export async function readDatabaseClock(ask: () => Promise<number>): Promise<ClockReading> {
  const askedAt = Date.now();
  const theirs = await ask();
  return { theirs, resolutionMs: 0, askedAt, answeredAt: Date.now() };
}

/**
 * Compares this machine's clock with the clock of another machine.
 *
 * @param whose the other machine, e.g. `the database`
 */
export function judgeClock(name: string, whose: string, reading: ClockReading): Finding {
  const ahead = aheadMs(reading);
  const apart = Math.abs(ahead);
  const seconds = `${(apart / 1000).toFixed(1)} s`;
  if (apart <= NOTICEABLE_MS) return ok(name, `agrees with the clock of ${whose} (less than 2 s apart)`);
  const difference = `this machine's clock is ${seconds} ${ahead > 0 ? 'ahead of' : 'behind'} that of ${whose}: let both follow NTP`;
  return apart > HARMFUL_MS ? wrong(name, difference) : warning(name, difference);
}

/** Minimum lead of this machine's clock. The response time and the resolution count as no difference. */
function aheadMs({ theirs, resolutionMs, askedAt, answeredAt }: ClockReading): number {
  const atMost = answeredAt - theirs;
  const atLeast = askedAt - theirs - resolutionMs;
  if (atLeast > 0) return atLeast;
  return atMost < 0 ? atMost : 0;
}
