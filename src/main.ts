import { loadSettings, readEnvironment } from './config/settings.js';
import { runCommand } from './commands/run-command.js';
import { createLogger } from './observability/logger.js';
import { serve } from './server.js';

await runCommand(async () => {
  const settings = loadSettings(readEnvironment());
  const { stopped } = await serve(settings, createLogger(settings.logLevel));
  await stopped;
});
