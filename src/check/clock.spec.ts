import { describe, expect, it } from '@jest/globals';
import { judgeClock } from './clock.js';

/** The request is sent at 100 s, and the response comes 200 ms later. */
const statusOf = (theirs: number, resolutionMs = 0): string =>
  judgeClock('clock', 'the other', { theirs, resolutionMs, askedAt: 100_000, answeredAt: 100_200 }).status;

describe('judgeClock', () => {
  it.each([
    [100_100, 'ok'],
    [98_000, 'ok'],
    [102_200, 'ok'],
    [97_900, 'warning'],
    [102_300, 'warning'],
    [70_000, 'warning'],
    [130_200, 'warning'],
    [69_900, 'wrong'],
    [130_300, 'wrong'],
  ])('judges another clock at %s ms as %s', (theirs, status) => {
    expect(statusOf(theirs)).toBe(status);
  });

  it('ignores the response time and the resolution of the other clock', () => {
    expect(statusOf(97_900, 1000)).toBe('ok');
    expect(statusOf(102_100, 1000)).toBe('ok');
    expect(statusOf(96_900, 1000)).toBe('warning');
  });

  it('names the clock that is ahead, and the difference', () => {
    const reading = { resolutionMs: 0, askedAt: 100_000, answeredAt: 100_000 };
    expect(judgeClock('clock', 'the other', { ...reading, theirs: 60_000 }).message).toContain(
      '40.0 s ahead of',
    );
    expect(judgeClock('clock', 'the other', { ...reading, theirs: 140_000 }).message).toContain(
      '40.0 s behind',
    );
  });
});
