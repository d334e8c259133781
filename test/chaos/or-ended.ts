/**
 * Waits for work, or for the early end of the run.
 *
 * @throws Error when the run was ended, and what `work` throws
 */
export async function orEnded<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  signal?.throwIfAborted();
  let stop = (): void => undefined;
  const ended = new Promise<never>((_, reject) => {
    stop = () => reject(new Error('The run was ended.'));
    signal?.addEventListener('abort', stop);
  });
  try {
    return await Promise.race([work, ended]);
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}
