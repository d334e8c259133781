import type { Request } from 'express';

/**
 * The least bytes per second of an upload. A phone on 2G (EDGE) sends twice as much where reception is poor. At this rate
 * 240 kB arrive within the 30 s after which the app gives up.
 */
export const MIN_BYTES_PER_SECOND = 8 * 1024;

/** Counts of the bytes in each period. */
const COUNTS = 10;

type Watch = {
  /** The length of a period, in seconds. */
  readonly slowSeconds: number;
  /** Whether the server reads, so that the time is the client's. */
  readonly isReading: () => boolean;
  readonly tooSlow: () => void;
};

/**
 * Holds an upload to {@link MIN_BYTES_PER_SECOND}, on the average of the last period. The first period is free, because a
 * phone's connection starts slowly. Time in which the server does not read does not count.
 *
 * @returns a function that ends the watch
 */
export function watchUploadPace({ socket }: Request, { slowSeconds, isReading, tooSlow }: Watch): () => void {
  const counts = [socket.bytesRead];
  const timer = setInterval(
    () => {
      if (!isReading()) return;
      counts.push(socket.bytesRead);
      if (counts.length <= COUNTS) return;
      const [aPeriodAgo = 0] = counts.splice(0, 1);
      if (socket.bytesRead - aPeriodAgo < slowSeconds * MIN_BYTES_PER_SECOND) tooSlow();
    },
    (slowSeconds * 1000) / COUNTS,
  );
  return () => clearInterval(timer);
}
