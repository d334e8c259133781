/*
 * Finds the longest block of the server's event loop. It is loaded into the server with node --import.
 * The benchmark asks over the IPC channel, and each response begins a new search.
 */
import { openSync, readSync } from 'node:fs';
import { performance, PerformanceObserver } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';

export type LongestBlock = {
  readonly milliseconds: number;
  /** The part in which the thread ran instead of waiting for a processor. NaN outside Linux. */
  readonly onProcessor: number;
  /** The part that was garbage collection. */
  readonly collecting: number;
};

const TICK_MS = 1;

/** @returns a function for the milliseconds that the main thread has run */
function processorClock(): () => number {
  if (process.platform !== 'linux') return () => NaN;
  const file = openSync('/proc/self/schedstat', 'r');
  const buffer = Buffer.alloc(64);
  return () => parseInt(buffer.toString('latin1', 0, readSync(file, buffer, 0, 64, 0)), 10) / 1e6;
}

function watch(): void {
  const ran = processorClock();
  let longest = { from: 0, milliseconds: 0, onProcessor: 0 };
  let last = { at: performance.now(), ran: ran() };
  setInterval(() => {
    const now = { at: performance.now(), ran: ran() };
    const milliseconds = now.at - last.at - TICK_MS;
    if (milliseconds > longest.milliseconds) {
      longest = { from: last.at, milliseconds, onProcessor: now.ran - last.ran };
    }
    last = now;
  }, TICK_MS).unref();

  const collections: { readonly from: number; readonly to: number }[] = [];
  const observe = (entries: readonly { readonly startTime: number; readonly duration: number }[]): void => {
    for (const { startTime, duration } of entries) {
      collections.push({ from: startTime, to: startTime + duration });
    }
  };
  const observer = new PerformanceObserver((list) => observe(list.getEntries()));
  observer.observe({ entryTypes: ['gc'] });

  process.on('message', () => {
    observe(observer.takeRecords());
    const { from, milliseconds, onProcessor } = longest;
    const collecting = collections
      .map((one) => Math.min(one.to, from + milliseconds + TICK_MS) - Math.max(one.from, from))
      .filter((overlap) => overlap > 0)
      .reduce((sum, overlap) => sum + overlap, 0);
    process.send?.({ milliseconds, onProcessor, collecting } satisfies LongestBlock);
    collections.length = 0;
    longest = { from: 0, milliseconds: 0, onProcessor: 0 };
  });
  process.channel?.unref();
}

// The worker threads of the server also load this module.
if (isMainThread) watch();
