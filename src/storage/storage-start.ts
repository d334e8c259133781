import type { Logger } from 'pino';
import { SettingsError } from '../config/settings.js';
import { StorageUnavailableError } from './storage-errors.js';
import { isConfigurationMistake, storageAdvice } from './storage-failure.js';
import type { StorageProvider } from './storage-provider.js';

/**
 * Asks the storage once, when the service starts. A storage that is down, slow or does not let itself be listed is
 * warned of, as it may be well a moment later; readiness is false until then.
 *
 * @param waitMs how long its answer is waited for
 * @throws SettingsError for a mistake in the configuration, which no waiting will mend
 */
export async function refuseStorageMistakes(
  storage: StorageProvider,
  logger: Logger,
  waitMs: number,
): Promise<void> {
  try {
    const signal = AbortSignal.timeout(waitMs);
    await Promise.race([storage.ping(signal), silence(signal)]);
  } catch (error) {
    const failure = error instanceof StorageUnavailableError ? error.failure : 'unexpected';
    const advice = storageAdvice(failure);
    if (isConfigurationMistake(failure)) throw new SettingsError([`${advice}.`]);
    logger.warn({ storage: failure, advice }, 'the storage is not ready');
  }
}

/** Rejects when the time is over, also where a driver does not look at the signal: a file system can't be interrupted. */
function silence(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () =>
      reject(new StorageUnavailableError('The storage did not answer in time.', 'unreachable')),
    );
  });
}
