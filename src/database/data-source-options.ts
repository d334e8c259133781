import { AbstractLogger, type DataSourceOptions } from 'typeorm';
import type { DatabaseSettings } from '../config/settings.js';
import { connectionOptions, connectionTarget } from './connection.js';
import { ReferencedTables1762300000000 } from './migrations/1762300000000-referenced-tables.js';
import { ChatImages1762300000001 } from './migrations/1762300000001-chat-images.js';
import { UploadSafety1762400000000 } from './migrations/1762400000000-upload-safety.js';
import { OnePendingUpload1762500000000 } from './migrations/1762500000000-one-pending-upload.js';
import { Tombstones1764000000000 } from './migrations/1764000000000-tombstones.js';
import { LinkOpens1764000000001 } from './migrations/1764000000001-link-opens.js';
import { UploadLeases1765000000000 } from './migrations/1765000000000-upload-leases.js';
import { TextSessions1766000000000 } from './migrations/1766000000000-text-sessions.js';
import { Imports1766000000001 } from './migrations/1766000000001-imports.js';
import { Thumbnails1767000000000 } from './migrations/1767000000000-thumbnails.js';

/** The migrate command prints the result itself. TypeORM's log would repeat it. */
class SilentLogger extends AbstractLogger {
  protected writeLog(): void {
    // Nothing is logged.
  }
}

type Entities = DataSourceOptions['entities'];

/** TypeORM's options for upkeep, migrations and tests. Requests use the RequestDatabase. */
export function dataSourceOptions(database: DatabaseSettings, entities: Entities): DataSourceOptions {
  const { connectionString, ssl } = connectionTarget(database);
  return {
    type: 'postgres',
    url: connectionString,
    ...(ssl === undefined ? {} : { ssl }),
    entities,
    migrations: [
      ReferencedTables1762300000000,
      ChatImages1762300000001,
      UploadSafety1762400000000,
      OnePendingUpload1762500000000,
      Tombstones1764000000000,
      LinkOpens1764000000001,
      UploadLeases1765000000000,
      TextSessions1766000000000,
      Imports1766000000001,
      Thumbnails1767000000000,
    ],
    migrationsTableName: 'chat_image_migrations',
    synchronize: false,
    logger: new SilentLogger(),
    applicationName: 'chat-image-store',
    // Ids are numbers: they are at most 2^53 - 1, checked before they reach a statement.
    parseInt8: true,
    poolSize: database.poolSize,
    connectTimeoutMS: database.connectTimeoutMs,
    extra: connectionOptions(database),
  };
}

/** Options of a migration: DATABASE_DIRECT_URL if set, and no statement timeout, because index builds are slow. */
export function migrationDataSourceOptions(
  database: DatabaseSettings,
  entities: Entities,
): DataSourceOptions {
  const direct = database.directUrl === undefined ? {} : { url: database.directUrl, pooled: false };
  return dataSourceOptions({ ...database, ...direct, statementTimeoutMs: 0 }, entities);
}
