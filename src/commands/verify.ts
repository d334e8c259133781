import { parseArgs } from 'node:util';
import { StoredImageVerifier } from '../upkeep/stored-image-verifier.js';
import { withUpkeep } from '../upkeep/with-upkeep.js';
import { endProgress, showProgress } from './progress.js';
import { runCommand, UsageError } from './run-command.js';

const USAGE = 'Usage: npm run verify [-- --since <date, e.g. 2026-01-31 or 2026-01-31T12:00:00Z>]';

await runCommand(async () => {
  const since = readArguments();
  await withUpkeep(async (app) => {
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
  });
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
