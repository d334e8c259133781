import type { Request } from 'express';

/**
 * What an upload must keep up, in bytes a second. A phone on 2G (EDGE) sends twice as much where reception is poor; with
 * less, no picture of more than 240 kB would arrive within the 30 s after which the app gives up.
 */
export const MIN_BYTES_PER_SECOND = 8 * 1024;

/** How often in each period the bytes are counted. */
const COUNTS = 10;

type Watch = {
  /** The length of a period, in seconds. */
  readonly slowSeconds: number;
  /** Whether the server is ready for more, so that it is the client who is waited for. */
  readonly isReading: () => boolean;
  readonly tooSlow: () => void;
};

/**
 * Holds an upload to {@link MIN_BYTES_PER_SECOND}, on the average of the last period. Nothing is judged before the first
 * period is over, as a phone needs its time to get going, and time does not count in which the server was not reading.
 *
 * @returns ends the watch
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
