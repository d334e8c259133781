import { DataSource } from 'typeorm';
import { loadDatabaseSettings, readEnvironment } from '../config/settings.js';
import { migrationDataSourceOptions } from '../database/data-source-options.js';
import { migrateDown, migrateUp } from '../database/migrate.js';
import { runCommand, UsageError } from './run-command.js';

await runCommand(async () => {
  const [direction = 'up', ...rest] = process.argv.slice(2);
  if (!['up', 'down'].includes(direction) || rest.length > 0) {
    throw new UsageError('Usage: npm run migrate [-- up | down]   (down takes the newest migration back)');
  }
  const dataSource = await new DataSource(
    migrationDataSourceOptions(loadDatabaseSettings(readEnvironment())),
  ).initialize();
  try {
    const names = direction === 'up' ? await migrateUp(dataSource) : await migrateDown(dataSource);
    process.stdout.write(
      names.length > 0 ? `Migrated ${direction}: ${names.join(', ')}\n` : 'Nothing to migrate.\n',
    );
  } finally {
    await dataSource.destroy();
  }
});
