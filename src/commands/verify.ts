import { NestFactory } from '@nestjs/core';
import { parseArgs } from 'node:util';
import { StoredImageVerifier } from '../upkeep/stored-image-verifier.js';
import { UpkeepCommandsModule } from '../upkeep/upkeep-commands.module.js';
import { loadSettings, readEnvironment } from '../config/settings.js';
import { createLogger, NestLogger } from '../observability/logger.js';
import { endProgress, showProgress } from './progress.js';
import { runCommand, UsageError } from './run-command.js';

const USAGE = 'Usage: npm run verify [-- --since <date, e.g. 2026-01-31 or 2026-01-31T12:00:00Z>]';

await runCommand(async () => {
  const since = readArguments();
  const settings = loadSettings(readEnvironment());
  const logger = createLogger('warn');
  const app = await NestFactory.createApplicationContext(UpkeepCommandsModule.with(settings, logger), {
    logger: new NestLogger(logger),
    abortOnError: false,
  });
  try {
    const { counts, thumbnails, damaged } = await app.get(StoredImageVerifier).verify(since, showProgress);
    endProgress();
    console.table(counts);
    console.table({
      'intact thumbnails': thumbnails.intact,
      'changed thumbnails': thumbnails.changed,
      'missing thumbnails': thumbnails.missing,
    });
    if (damaged.length > 0) {
      console.table(damaged);
      throw new UsageError(
        `${damaged.length} objects of images are not what was stored: restore them from a backup.`,
      );
    }
  } finally {
    await app.close();
  }
});

function readArguments(): Date | undefined {
  try {
    const { since } = parseArgs({ options: { since: { type: 'string' } } }).values;
    if (since === undefined) return undefined;
    const date = new Date(since);
    if (Number.isNaN(date.getTime())) throw new UsageError(USAGE);
    return date;
  } catch {
    throw new UsageError(USAGE);
  }
}
