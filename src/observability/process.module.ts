import { type DynamicModule, Global, Module } from '@nestjs/common';
import type { Logger } from 'pino';
import { SETTINGS, type Settings } from '../config/settings.js';
import { LOGGER } from './logger.js';
import { METRICS, type Metrics } from './metrics.js';

/** The settings, the logger and the metrics. They are global; a module that needs anything else imports the module that has it. */
@Global()
@Module({})
export class ProcessModule {
  static with(settings: Settings, logger: Logger, metrics?: Metrics): DynamicModule {
    return {
      module: ProcessModule,
      providers: [
        { provide: SETTINGS, useValue: settings },
        { provide: LOGGER, useValue: logger },
        { provide: METRICS, useValue: metrics },
      ],
      exports: [SETTINGS, LOGGER, METRICS],
    };
  }
}
