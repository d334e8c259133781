import { NestFactory } from '@nestjs/core';
import { parseArgs } from 'node:util';
import { AppModule } from '../app.module.js';
import { StorageReconciler, SuspiciousReconciliationError } from '../chat-images/storage-reconciler.js';
import { UploadSweeper } from '../chat-images/upload-sweeper.service.js';
import { loadSettings, readEnvironment } from '../config/settings.js';
import { createLogger, NestLogger } from '../logging/logger.js';
import { endProgress, showProgress } from './progress.js';
import { runCommand, UsageError } from './run-command.js';

/** How many keys of each kind are printed. */
const SHOWN = 50;

await runCommand(async () => {
  const dryRun = readArguments();
  const settings = loadSettings(readEnvironment());
  const logger = createLogger('warn');
  const app = await NestFactory.createApplicationContext(AppModule.with(settings, logger), {
    logger: new NestLogger(logger),
    abortOnError: false,
  });
  try {
    const unfinished = dryRun ? undefined : await app.get(UploadSweeper).sweep();
    const found = await app.get(StorageReconciler).reconcile({ dryRun }, showProgress);
    endProgress();
    console.table({
      'objects in the storage': found.objects,
      'stored images': found.images,
      'uploads that never ended, removed':
        unfinished ?? (dryRun ? 'not looked for' : 'another instance is at it'),
      [`objects without an image, ${dryRun ? 'kept' : 'removed'}`]: found.objectsWithoutImage.length,
      'images without their object': found.imagesWithoutObject.length,
    });
    if (dryRun && found.objectsWithoutImage.length > 0) {
      process.stdout.write(
        `Objects without an image:\n${found.objectsWithoutImage.slice(0, SHOWN).join('\n')}\n`,
      );
    }
    if (found.imagesWithoutObject.length > 0) {
      console.table(found.imagesWithoutObject.slice(0, SHOWN));
      throw new UsageError(
        'Images have lost their objects. This command may not mend that: restore them from a backup.',
      );
    }
  } catch (error) {
    if (error instanceof SuspiciousReconciliationError) throw new UsageError(error.message);
    throw error;
  } finally {
    await app.close();
  }
});

function readArguments(): boolean {
  try {
    return parseArgs({ options: { 'dry-run': { type: 'boolean', default: false } } }).values['dry-run'];
  } catch {
    throw new UsageError('Usage: npm run reconcile [-- --dry-run]');
  }
}
