import { DataSource } from 'typeorm';
import { loadDatabaseSettings, readEnvironment } from '../config/settings.js';
import { migrationDataSourceOptions } from '../database/data-source-options.js';
import { TableMismatchError } from '../database/existing-tables.js';
import { migrateDown, migrateUp, MigrationLockedError } from '../database/migrate.js';
import { runCommand, UsageError } from './run-command.js';

await runCommand(async () => {
  const [direction = 'up', ...rest] = process.argv.slice(2);
  if (!['up', 'down'].includes(direction) || rest.length > 0) {
    throw new UsageError('Usage: npm run migrate [-- up | down]   (down takes the newest migration back)');
  }
  const dataSource = await new DataSource(
    migrationDataSourceOptions(loadDatabaseSettings(readEnvironment())),
  ).initialize();
  const onWait = (holders: string): void => say(`Waiting for a lock, held by ${holders} …`);
  try {
    const names = await (direction === 'up' ? migrateUp : migrateDown)(dataSource, { onWait });
    say(names.length > 0 ? `Migrated ${direction}: ${names.join(', ')}` : 'Nothing to migrate.');
  } catch (error) {
    if (error instanceof MigrationLockedError) throw new UsageError(error.message);
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
