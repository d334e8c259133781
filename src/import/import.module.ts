import { type DynamicModule, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Logger } from 'pino';
import { ENTITIES } from '../chat-images/entities/entities.js';
import type { Settings } from '../config/settings.js';
import { dataSourceOptions } from '../database/data-source-options.js';
import { ProcessModule } from '../observability/process.module.js';
import { PicturesModule } from '../pictures/pictures.module.js';
import { StorageModule } from '../storage/storage.module.js';
import { ImageImporter } from './image-importer.js';
import { ImportRollback } from './import-rollback.js';
import { ImportVerifier } from './import-verifier.js';
import { SourceRemover } from './source-remover.js';

/** Two batches of an import, each with a transaction, and the statements of the listing. */
const CONNECTIONS = 4;

/** The old pictures' way in, and back: for the commands `migrate:…`, not for the server. */
@Module({})
export class ImportModule {
  static with(settings: Settings, logger: Logger): DynamicModule {
    return {
      module: ImportModule,
      imports: [
        ProcessModule.with(settings, logger),
        TypeOrmModule.forRoot({
          ...dataSourceOptions({ ...settings.database, poolSize: CONNECTIONS }, ENTITIES),
          retryAttempts: 0,
        }),
        PicturesModule,
        StorageModule,
      ],
      providers: [ImageImporter, ImportVerifier, ImportRollback, SourceRemover],
    };
  }
}
