import { Inject, Injectable } from '@nestjs/common';
import { DataSource, type QueryRunner } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { dataSourceOptions } from '../database/data-source-options.js';
import { STORAGE_FOLDER } from './chat-image-path.js';
import { StorageProvider } from './storage/storage-provider.js';

/** Keys that go to the database in one statement, and objects removed between two looks at the clock. */
const BATCH = 1000;

/** For one statement about everything. */
const STATEMENT_TIMEOUT_MS = 600_000;

/** What a comparison of the storage with the rows has found. */
export type Reconciliation = {
  readonly objects: number;
  readonly images: number;
  /** Objects that no image names; removed unless on a dry run. */
  readonly objectsWithoutImage: readonly string[];
  /** Images that say stored but have no object, or one of another size. Nobody can mend these here. */
  readonly imagesWithoutObject: readonly {
    readonly id: number;
    readonly filePath: string;
    readonly found: string;
  }[];
};

/** More objects without an image than with one: most likely the database is another one's, or an old backup. */
export class SuspiciousReconciliationError extends Error {
  override readonly name = 'SuspiciousReconciliationError';
}

/** Compares the whole storage with the rows, in both directions. */
@Injectable()
export class StorageReconciler {
  constructor(
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * @param progress told how many objects have been listed, and about how many there will be
   * @throws SuspiciousReconciliationError, with nothing removed, when most objects have no image
   */
  async reconcile(
    { dryRun }: { dryRun: boolean },
    progress: (done: number, about: number) => void = () => undefined,
  ): Promise<Reconciliation> {
    // A database connection of its own: the list of keys is a temporary table of it, and a picture of the size of the
    // storage takes its time to sort; it is no request that somebody waits for.
    const own = new DataSource(
      dataSourceOptions({
        ...this.settings.database,
        poolSize: 1,
        statementTimeoutMs: STATEMENT_TIMEOUT_MS,
      }),
    );
    await own.initialize();
    const connection = own.createQueryRunner();
    try {
      return await this.compare(connection, dryRun, progress);
    } finally {
      await connection.release();
      await own.destroy();
    }
  }

  private async compare(
    connection: QueryRunner,
    dryRun: boolean,
    progress: (done: number, about: number) => void,
  ): Promise<Reconciliation> {
    // Rows are committed before their objects are written: an image of a time before the list began is complete in it.
    const [start] = await connection.dataSource.query<{ now: Date; images: number }[]>(
      `SELECT now() AS now, count(*) AS images FROM chat_images WHERE state = 'stored'`,
      [],
      connection,
    );
    if (!start) throw new Error('The database answered without a row.');
    const objects = await this.list(connection, (done) => progress(done, start.images));

    const orphans = await connection.dataSource.query<{ key: string }[]>(
      `SELECT key FROM listed_objects
       WHERE modified < $1::timestamptz - make_interval(secs => $2)
         AND NOT EXISTS (SELECT FROM chat_images WHERE file_path = key AND filename = substring(key from '[^/]+$'))
       ORDER BY key`,
      [start.now, this.settings.uploads.graceSeconds],
      connection,
    );
    const missing = await connection.dataSource.query<Reconciliation['imagesWithoutObject']>(
      `SELECT id, file_path AS "filePath", coalesce(listed_objects.size || ' bytes', 'nothing') AS found
       FROM chat_images LEFT JOIN listed_objects ON key = file_path
       WHERE state = 'stored' AND updated_at < $1 AND listed_objects.size IS DISTINCT FROM chat_images.size
       ORDER BY id`,
      [start.now],
      connection,
    );
    const reconciliation = {
      objects,
      images: start.images,
      objectsWithoutImage: orphans.map(({ key }) => key),
      imagesWithoutObject: missing,
    };
    if (!dryRun) {
      if (orphans.length > objects / 2 && orphans.length > BATCH) {
        throw new SuspiciousReconciliationError(
          `${orphans.length} of ${objects} objects have no image. Nothing was removed: is this the right database?`,
        );
      }
      for (const key of reconciliation.objectsWithoutImage) await this.storage.delete(key);
    }
    return reconciliation;
  }

  /** Copies the list of objects into a temporary table. */
  private async list(connection: QueryRunner, progress: (done: number) => void): Promise<number> {
    await connection.query(
      'CREATE TEMPORARY TABLE listed_objects (key text PRIMARY KEY, size bigint NOT NULL, modified timestamptz NOT NULL)',
    );
    let done = 0;
    let batch: { key: string; size: number; lastModified: Date }[] = [];
    const write = async (): Promise<void> => {
      await connection.query(
        `INSERT INTO listed_objects SELECT * FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) ON CONFLICT DO NOTHING`,
        [
          batch.map(({ key }) => key),
          batch.map(({ size }) => size),
          batch.map(({ lastModified }) => lastModified),
        ],
      );
      done += batch.length;
      batch = [];
      progress(done);
    };
    for await (const object of this.storage.list(`${STORAGE_FOLDER}/`)) {
      batch.push(object);
      if (batch.length === BATCH) await write();
    }
    await write();
    await connection.query('ANALYZE listed_objects');
    return done;
  }
}
