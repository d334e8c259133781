import { parseArgs } from 'node:util';
import { StorageReconciler, type UnknownKind, type UnknownObject } from '../upkeep/storage-reconciler.js';
import { withUpkeep } from '../upkeep/with-upkeep.js';
import type { Settings } from '../config/settings.js';
import { confirm, parseAge } from './ask.js';
import { endProgress, showProgress } from './progress.js';
import { runCommand, UsageError } from './run-command.js';

const USAGE = `Usage: npm run reconcile                     compares the storage with the rows, and reports
       npm run reconcile -- --after-restore  first completes uploads that are pending in a restored database
       npm run reconcile -- --remove-unknown [--older-than 30d] [--limit 1000] [--yes]
                                             lists objects that no row names, asks, and removes them for good`;

type Arguments = {
  readonly afterRestore: boolean;
  readonly removeUnknown: boolean;
  readonly olderThanSeconds: number;
  readonly limit: number;
  readonly yes: boolean;
};

await runCommand(async () => {
  const options = readArguments();
  await withUpkeep(async (app, settings) => {
    const reconciler = app.get(StorageReconciler);
    if (options.removeUnknown) await removeUnknown(reconciler, settings, options);
    else await report(reconciler, options);
  });
});

async function report(reconciler: StorageReconciler, { afterRestore }: Arguments): Promise<void> {
  if (afterRestore) {
    const { completed, pending } = await reconciler.completePending();
    say(`Uploads that were pending and are whole: ${completed} are stored now. Still pending: ${pending}.`);
  }
  const { objects, images, thumbnails, missing, unknown, unknownByKind } = await reconciler.compare({
    progress: showProgress,
  });
  endProgress();
  console.table({
    'objects in the storage': objects,
    'stored images': images,
    'thumbnails of them': thumbnails,
    'images without their object': missing.count,
    'objects that no row names': unknown.count,
    '- in the form of a picture': unknownByKind.picture,
    '- in the form of a thumbnail': unknownByKind.thumbnail,
    '- with another name': unknownByKind['other name'],
    '- in another folder': unknownByKind['other folder'],
  });
  if (unknown.count > 0) {
    say(
      `Objects that no row names, the first ${unknown.first.length} of ${unknown.count}; nothing was removed:`,
    );
    list(unknown.first);
  }
  if (missing.count > 0) {
    console.table(missing.first);
    throw new UsageError(
      'Images have lost their objects. This command may not mend that: restore them from a backup.',
    );
  }
}

async function removeUnknown(
  reconciler: StorageReconciler,
  { migration }: Settings,
  { olderThanSeconds, limit, yes }: Arguments,
): Promise<void> {
  // Pictures of the previous system have no row until their import, and users still view them.
  const kinds: readonly UnknownKind[] =
    migration.phase <= 2
      ? ['thumbnail', 'other name', 'other folder']
      : ['picture', 'thumbnail', 'other name', 'other folder'];
  if (migration.phase <= 2)
    say(
      `MIGRATION_PHASE=${migration.phase}: objects in the form of a picture are kept, they are not imported yet.`,
    );
  const found = await reconciler.findUnknown(olderThanSeconds, limit, kinds);
  if (found.length === 0) {
    say('There is nothing to remove.');
    return;
  }
  list(found);
  if (!yes) await confirm(`Remove these ${found.length} objects for good?`);
  let removed = 0;
  try {
    const kept = await reconciler.removeUnknown(found, () => (removed += 1));
    if (kept.length > 0)
      say(`Kept, as a row names them now, or as no key of this service: ${kept.map(printable).join(', ')}`);
  } finally {
    say(`Removed: ${removed} of ${found.length}.`);
  }
}

function list(objects: readonly UnknownObject[]): void {
  for (const { key, size, lastModified, kind } of objects)
    say(
      `${lastModified.toISOString().slice(0, 10)}  ${String(size).padStart(10)}  ${kind.padEnd(12)}  ${key}`,
    );
}

/** The key without control characters: anyone who writes to the bucket could send terminal commands in a key. */
function printable(key: string): string {
  return /\p{C}/u.test(key) ? JSON.stringify(key).replaceAll(/\p{C}/gu, '?') : key;
}

function readArguments(): Arguments {
  try {
    const { values } = parseArgs({
      options: {
        'after-restore': { type: 'boolean', default: false },
        'remove-unknown': { type: 'boolean', default: false },
        'older-than': { type: 'string' },
        limit: { type: 'string' },
        yes: { type: 'boolean', default: false },
        // Has no effect: a dry run is the default. Kept for scripts that use the option.
        'dry-run': { type: 'boolean', default: false },
      },
    });
    const removal = values['older-than'] !== undefined || values.limit !== undefined || values.yes;
    if (!values['remove-unknown'] && removal) throw new UsageError(USAGE);
    if (values['remove-unknown'] && (values['after-restore'] || values['dry-run']))
      throw new UsageError(USAGE);
    const olderThanSeconds = parseAge(values['older-than'] ?? '30d');
    const limit = /^[1-9]\d{0,6}$/.exec(values.limit ?? '1000');
    if (olderThanSeconds === undefined || !limit) throw new UsageError(USAGE);
    return {
      afterRestore: values['after-restore'],
      removeUnknown: values['remove-unknown'],
      olderThanSeconds,
      limit: Number(limit[0]),
      yes: values.yes,
    };
  } catch {
    throw new UsageError(USAGE);
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
