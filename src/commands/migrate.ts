import { DataSource } from 'typeorm';
import { loadDatabaseSettings, readEnvironment } from '../config/settings.js';
import { ENTITIES } from '../chat-images/entities/entities.js';
import { migrationDataSourceOptions } from '../database/data-source-options.js';
import { DataLossError } from '../database/data-loss.js';
import { TableMismatchError } from '../database/existing-tables.js';
import { migrateDown, migrateUp, MigrationLockedError } from '../database/migrate.js';
import { runCommand, UsageError } from './run-command.js';

const DROP_DATA = '--yes-drop-data';

const USAGE = `Usage: npm run migrate [-- up]
       npm run migrate -- down [${DROP_DATA}]   takes the newest migration back, with its rows only where that is said`;

await runCommand(async () => {
  const [direction = 'up', ...options] = process.argv.slice(2);
  const dropData = options.includes(DROP_DATA);
  const unknown = options.filter((option) => option !== DROP_DATA);
  if (!['up', 'down'].includes(direction) || unknown.length > 0 || (dropData && direction !== 'down'))
    throw new UsageError(USAGE);
  const dataSource = await new DataSource(
    migrationDataSourceOptions(loadDatabaseSettings(readEnvironment()), ENTITIES),
  ).initialize();
  const onWait = (holders: string): void => say(`Waiting for a lock, held by ${holders} …`);
  try {
    const names = await (direction === 'up'
      ? migrateUp(dataSource, { onWait })
      : migrateDown(dataSource, { onWait, dropData }));
    say(names.length > 0 ? `Migrated ${direction}: ${names.join(', ')}` : 'Nothing to migrate.');
  } catch (error) {
    if (error instanceof MigrationLockedError) throw new UsageError(error.message);
    if (error instanceof DataLossError)
      throw new UsageError(
        `Nothing was migrated: ${error.message} would be dropped for good. Where that is meant: npm run migrate -- down ${DROP_DATA}`,
      );
    if (error instanceof TableMismatchError)
      throw new UsageError(`Nothing was migrated: tables that are there do not fit.\n${error.message}`);
    throw error;
  } finally {
    await dataSource.destroy();
  }
});

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
