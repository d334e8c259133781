import { afterEach, describe, expect, it } from '@jest/globals';
import { DEFAULT_TIMING, pause, pauseMs, untilAborted } from '../src/waiting.js';

const DAY_MS = 86_400_000;

describe('pauseMs', () => {
  it('is random, up to twice as long after each failure, and limited', () => {
    for (const [failures, most] of [
      [1, 1000],
      [2, 2000],
      [5, 16_000],
      [6, 30_000],
      [1000, 30_000],
    ] as const) {
      const pauses = Array.from({ length: 1000 }, () => pauseMs(failures, undefined, DEFAULT_TIMING));
      expect(Math.min(...pauses)).toBeGreaterThanOrEqual(0);
      expect(Math.max(...pauses)).toBeLessThanOrEqual(most);
      expect(Math.max(...pauses) - Math.min(...pauses)).toBeGreaterThan(most / 2);
    }
  });

  it('is never shorter than the service says', () => {
    const pauses = Array.from({ length: 1000 }, () => pauseMs(1, 5000, DEFAULT_TIMING));
    expect(Math.min(...pauses)).toBeGreaterThanOrEqual(5000);
    expect(new Set(pauses).size).toBeGreaterThan(100);
  });
});

describe('pause', () => {
  const page = new EventTarget();
  const asPage = {
    addEventListener: page.addEventListener.bind(page),
    removeEventListener: page.removeEventListener.bind(page),
  };

  afterEach(() => {
    Reflect.deleteProperty(globalThis, 'addEventListener');
    Reflect.deleteProperty(globalThis, 'removeEventListener');
  });

  it('ends when a signal aborts, also one that has aborted before', async () => {
    const controller = new AbortController();
    const long = pause(DAY_MS, { signals: [undefined, controller.signal], untilOnline: true });
    controller.abort();
    await long;
    await pause(DAY_MS, { signals: [controller.signal], untilOnline: true });
  });

  it('ends when the page says that the network is back, unless the service has named the time', async () => {
    Object.assign(globalThis, asPage);
    const controller = new AbortController();
    let ended = false;
    const named = pause(DAY_MS, { signals: [controller.signal], untilOnline: false }).then(
      () => (ended = true),
    );
    const own = pause(DAY_MS, { signals: [], untilOnline: true });
    page.dispatchEvent(new Event('online'));
    await own;
    expect(ended).toBe(false);
    controller.abort();
    await named;
  });
});

describe('untilAborted', () => {
  it('is an AbortError where the platform knows no reasons', async () => {
    const signal = Object.assign(new EventTarget(), { aborted: true, reason: undefined });
    await expect(
      untilAborted(new Promise(() => undefined), signal as unknown as AbortSignal),
    ).rejects.toMatchObject({
      name: 'AbortError',
    });
  });
});
