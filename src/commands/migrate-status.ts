import { DataSource } from 'typeorm';
import { loadDatabaseSettings, loadMigrationPhase, readEnvironment } from '../config/settings.js';
import { ENTITIES } from '../chat-images/entities/entities.js';
import { dataSourceOptions } from '../database/data-source-options.js';
import {
  adviceOnPhase4,
  type ImportedSource,
  readiness,
  readMigrationStatus,
} from '../import/migration-status.js';
import { runCommand, UsageError } from './run-command.js';

/** Maximum number of listed app versions. */
const MAX_LISTED = 40;

await runCommand(async () => {
  if (process.argv.length > 2) throw new UsageError('Usage: npm run migrate:status');
  const environment = readEnvironment();
  const phase = loadMigrationPhase(environment);
  const dataSource = await new DataSource(
    dataSourceOptions(loadDatabaseSettings(environment), ENTITIES),
  ).initialize();
  try {
    const status = await readMigrationStatus(dataSource, phase);
    const { opens, sources } = status;
    process.stdout.write(`MIGRATION_PHASE=${phase}\n\n`);
    if (sources.length === 0) process.stdout.write('No old pictures were imported.\n');
    for (const source of sources) showSource(source);
    process.stdout.write('\nPictures opened without a token, by app version:\n');
    console.table(
      opens.slice(0, MAX_LISTED).map(({ appVersion, sentOn, day, week, month }) => ({
        'app version': appVersion,
        picture: sentOn ? 'not here yet' : 'here',
        '1 day': day,
        '7 days': week,
        '30 days': month,
      })),
    );
    if (opens.length > MAX_LISTED) process.stdout.write(`… and ${opens.length - MAX_LISTED} more.\n`);
    process.stdout.write(`\n${adviceOnPhase4(status)}\n${readiness(status)}\n`);
  } finally {
    await dataSource.destroy();
  }
});

function showSource({ source, files, reasons }: ImportedSource): void {
  process.stdout.write(`Old pictures of ${source}:\n`);
  console.table({
    'wait for the import': files.waiting,
    'unfinished: row here, object still public': files.registered,
    'done: private here': files.stored + files.closed + files.deleted,
    '- of them closed in the source': files.closed,
    '- of them deleted in the source': files.deleted,
    failed: files.failed,
    'gone from the source before the import': files.gone,
    'put back by a rollback': files.returned,
  });
  for (const { reason, files: failed } of reasons) process.stdout.write(`  failed ${failed}: ${reason}\n`);
}
