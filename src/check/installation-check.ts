import { loadDatabaseSettings, loadSettings, type Settings, SettingsError } from '../config/settings.js';
import { settingsWarnings } from '../config/settings-warnings.js';
import { checkAppUrl } from './app-url-check.js';
import { checkBucket } from './bucket-check.js';
import { checkDatabase } from './database-check.js';
import { type Finding, ok, skipped, warning, wrong } from './finding.js';
import { checkLocalStorage } from './local-storage-check.js';
import { checkRedis } from './redis-check.js';
import { checkTokens } from './token-check.js';

/**
 * Checks a whole installation by its environment, and removes all test data. Yields each finding as soon as it is known.
 */
export async function* checkInstallation(environment: NodeJS.ProcessEnv): AsyncGenerator<Finding> {
  const settings = attempt(() => loadSettings(environment));
  if (settings instanceof SettingsError) {
    yield* settings.problems.map((problem) => wrong('settings', problem));
    yield* checkDatabaseAlone(environment);
    yield skipped('everything else', 'until the settings are right');
    return;
  }
  yield* checkSettings(settings);
  yield* checkDatabase(settings.database, settings);
  yield* settings.storage.driver === 's3'
    ? checkBucket(settings, settings.storage)
    : checkLocalStorage(settings, settings.storage);
  yield* checkRedis(settings);
  yield await checkTokens(settings);
  yield await checkAppUrl(settings);
}

function* checkSettings(settings: Settings): Generator<Finding> {
  yield ok('settings', 'complete and well formed');
  for (const { topic, message } of settingsWarnings(settings)) yield warning(topic, message);
}

async function* checkDatabaseAlone(environment: NodeJS.ProcessEnv): AsyncGenerator<Finding> {
  const database = attempt(() => loadDatabaseSettings(environment));
  if (!(database instanceof SettingsError))
    yield* checkDatabase(database, { usersActiveColumn: undefined, textSessions: false });
}

function attempt<T>(load: () => T): T | SettingsError {
  try {
    return load();
  } catch (error) {
    if (error instanceof SettingsError) return error;
    throw error;
  }
}
