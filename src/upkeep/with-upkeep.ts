import { type DynamicModule, type INestApplicationContext, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Logger } from 'pino';
import { ENTITIES } from '../chat-images/entities/entities.js';
import { loadSettings, readEnvironment, type Settings } from '../config/settings.js';
import { dataSourceOptions } from '../database/data-source-options.js';
import { UPKEEP_CONNECTIONS } from '../database/request-database.js';
import { createLogger, NestLogger } from '../observability/logger.js';
import { ProcessModule } from '../observability/process.module.js';
import { UpkeepModule } from './upkeep.module.js';

/** Upkeep without the server. */
@Module({})
class UpkeepCommandsModule {
  static with(settings: Settings, logger: Logger): DynamicModule {
    return {
      module: UpkeepCommandsModule,
      imports: [
        ProcessModule.with(settings, logger),
        TypeOrmModule.forRoot({
          ...dataSourceOptions({ ...settings.database, poolSize: UPKEEP_CONNECTIONS }, ENTITIES),
          retryAttempts: 0,
        }),
        UpkeepModule,
      ],
    };
  }
}

/**
 * Starts upkeep without the server, and stops it after the work: for the commands `reconcile`, `verify` and `explain`.
 *
 * @throws SettingsError, and errors of the database and of `work`
 */
export async function withUpkeep(
  work: (app: INestApplicationContext, settings: Settings) => Promise<void>,
): Promise<void> {
  const settings = loadSettings(readEnvironment());
  const logger = createLogger('warn');
  const app = await NestFactory.createApplicationContext(UpkeepCommandsModule.with(settings, logger), {
    logger: new NestLogger(logger),
    abortOnError: false,
  });
  try {
    await work(app, settings);
  } finally {
    await app.close();
  }
}
