import { loadSettings, readEnvironment } from '../config/settings.js';
import { createLogger } from '../observability/logger.js';
import { runCommand, UsageError } from '../commands/run-command.js';
import { addSampleData } from './sample-data.js';

await runCommand(async () => {
  if (process.argv.length > 2) {
    throw new UsageError('Usage: npm run seed   (adds sample users, an appointment and pictures)');
  }
  const added = await addSampleData(loadSettings(readEnvironment()), createLogger('warn'));
  process.stdout.write(added > 0 ? `Added ${added} sample pictures.\n` : 'The sample data is there.\n');
});
