import type pg from 'pg';
import type { DataSourceOptions } from 'typeorm';
import { Appointment } from '../appointments/appointment.entity.js';
import { ChatImageAccess } from '../chat-images/chat-image-access.entity.js';
import { ChatImageUploadKey } from '../chat-images/chat-image-upload-key.entity.js';
import { ChatImage } from '../chat-images/chat-image.entity.js';
import type { Settings } from '../config/settings.js';
import { ImpatientClient } from './impatient-client.js';
import { User } from '../users/user.entity.js';
import { ReferencedTables1762300000000 } from './migrations/1762300000000-referenced-tables.js';
import { ChatImages1762300000001 } from './migrations/1762300000001-chat-images.js';
import { UploadSafety1762400000000 } from './migrations/1762400000000-upload-safety.js';
import { OnePendingUpload1762500000000 } from './migrations/1762500000000-one-pending-upload.js';

/** How much later than the server's own statement timeout the client gives up, for a server that does not answer. */
const CLIENT_GRACE_MS = 1000;

/** The one description of the database: for the service, the migrations and the tests. */
export function dataSourceOptions(database: Settings['database']): DataSourceOptions {
  return {
    type: 'postgres',
    url: database.url,
    entities: [User, Appointment, ChatImage, ChatImageAccess, ChatImageUploadKey],
    migrations: [
      ReferencedTables1762300000000,
      ChatImages1762300000001,
      UploadSafety1762400000000,
      OnePendingUpload1762500000000,
    ],
    migrationsTableName: 'chat_image_migrations',
    synchronize: false,
    applicationName: 'chat-image-store',
    // Ids are numbers: they are checked to be at most 2^53 - 1 before they get into a statement.
    parseInt8: true,
    poolSize: database.poolSize,
    connectTimeoutMS: database.connectTimeoutMs,
    extra: connectionOptions(database),
  };
}

/** What a migration runs with: it may wait for another instance's, or for a long index build. */
export function migrationDataSourceOptions(database: Settings['database']): DataSourceOptions {
  return dataSourceOptions({ ...database, statementTimeoutMs: 0 });
}

/** What every connection to the database has in common. A statement timeout of 0 is none. */
export function connectionOptions({
  statementTimeoutMs,
}: Pick<Settings['database'], 'statementTimeoutMs'>): pg.PoolConfig & { readonly Client: typeof pg.Client } {
  return {
    keepAlive: true,
    Client: ImpatientClient,
    ...(statementTimeoutMs === 0
      ? {}
      : { statement_timeout: statementTimeoutMs, query_timeout: statementTimeoutMs + CLIENT_GRACE_MS }),
  };
}
