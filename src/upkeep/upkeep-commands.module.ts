import { type DynamicModule, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Logger } from 'pino';
import { ENTITIES } from '../chat-images/entities/entities.js';
import type { Settings } from '../config/settings.js';
import { dataSourceOptions } from '../database/data-source-options.js';
import { UPKEEP_CONNECTIONS } from '../database/request-database.js';
import { ProcessModule } from '../observability/process.module.js';
import { UpkeepModule } from './upkeep.module.js';

/** Upkeep without the server: for the commands `reconcile`, `verify` and `explain`. */
@Module({})
export class UpkeepCommandsModule {
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
