import type { ChatImagesError } from './errors.js';

/** How long things may take, in milliseconds. */
export type Timing = {
  /** The pause after the first failure is at most this long, and each further one at most twice the one before. */
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
  /** How long an upload is tried again. */
  readonly uploadRetryMs: number;
  /** How long a request for URLs or a list is tried again. */
  readonly readRetryMs: number;
  /** The longest time of one try of an upload: more than the service itself allows. */
  readonly uploadTimeoutMs: number;
  /** The longest time of one try of another request. */
  readonly readTimeoutMs: number;
};

/** For networks that come and go: an upload is given up after ten minutes. */
export const DEFAULT_TIMING: Timing = {
  firstPauseMs: 1000,
  longestPauseMs: 30_000,
  uploadRetryMs: 600_000,
  readRetryMs: 60_000,
  uploadTimeoutMs: 180_000,
  readTimeoutMs: 30_000,
};

/**
 * How long to wait before the next try: as long as the service says, and a random time on top, so that the clients that one
 * failure has hit do not all come back at one moment.
 *
 * @param failures failures in a row, at least one
 */
export function pauseMs(
  failures: number,
  retryAfterMs: ChatImagesError['retryAfterMs'],
  { firstPauseMs, longestPauseMs }: Timing,
): number {
  const most = Math.min(longestPauseMs, firstPauseMs * 2 ** (failures - 1));
  return (retryAfterMs ?? 0) + Math.random() * most;
}

type Pause = {
  /** Ends the pause early. The caller looks at its own signal afterwards. */
  readonly signals: readonly (AbortSignal | undefined)[];
  /** Whether the pause ends as soon as the platform says that the network is back. */
  readonly untilOnline: boolean;
};

export function pause(ms: number, { signals, untilOnline }: Pause): Promise<void> {
  return new Promise((resolve) => {
    const hearsOnline = untilOnline && typeof addEventListener === 'function';
    const end = (): void => {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener('abort', end);
      if (hearsOnline) removeEventListener('online', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    for (const signal of signals) signal?.addEventListener('abort', end);
    if (hearsOnline) addEventListener('online', end);
    if (signals.some((signal) => signal?.aborted)) end();
  });
}

/** As `signal.throwIfAborted()`, which React Native lacks. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortReason(signal);
}

/** Settles as the work does, or rejects as soon as the signal aborts. The work must end itself. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(abortReason(signal));
    signal.addEventListener('abort', abort);
    if (signal.aborted) abort();
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

function abortReason(signal: AbortSignal): Error {
  // React Native knows no reason.
  const reason = signal.reason as Error | undefined;
  return reason ?? Object.assign(new Error('The operation was aborted.'), { name: 'AbortError' });
}
