import { DataSource } from 'typeorm';
import { loadDatabaseSettings, loadMigrationPhase, readEnvironment } from '../config/settings.js';
import { ENTITIES } from '../chat-images/entities/entities.js';
import { dataSourceOptions } from '../database/data-source-options.js';
import { adviceOnPhase4, countLinkOpens } from '../upkeep/link-open-report.js';
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
    const opens = await countLinkOpens(dataSource);
    process.stdout.write(`MIGRATION_PHASE=${phase}\n\nPictures opened without a token, by app version:\n`);
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
    process.stdout.write(`\n${adviceOnPhase4(phase, opens)}\n`);
  } finally {
    await dataSource.destroy();
  }
});
