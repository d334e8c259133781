import { setTimeout } from 'node:timers/promises';
import { type DataSource, MigrationExecutor, type QueryRunner } from 'typeorm';
import { refuseDataLoss } from './data-loss.js';
import { sqlState } from './database-failure.js';

/** Key of the advisory lock. The same in every instance, so that only one instance migrates at a time. */
const MIGRATION_LOCK = 7_241_090_145;

/** Lock timeout of one try. Short, because statements of requests queue behind a waiting table lock. */
const LOCK_TIMEOUT_MS = 2000;

/** Maximum duration of all tries, and the pause between two tries. */
const MAX_WAIT_MS = 60_000;
const PAUSE_MS = 500;

const LOCK_NOT_AVAILABLE = '55P03';

/** Another connection held a lock for longer than a migration waits. */
export class MigrationLockedError extends Error {
  override readonly name = 'MigrationLockedError';
}

type MigrateOptions = {
  readonly maxWaitMs?: number;
  /** Called once when the migration waits for a lock, with the connections that hold it. */
  readonly onWait?: (holders: string) => void;
};

/**
 * Runs all pending migrations in one transaction.
 *
 * @returns the names of the migrations that ran
 * @throws MigrationLockedError after a lock timeout; TableMismatchError
 */
export function migrateUp(dataSource: DataSource, options: MigrateOptions = {}): Promise<readonly string[]> {
  return withLock(dataSource, options, async (executor) => {
    const migrations = await executor.executePendingMigrations();
    return migrations.map(({ name }) => name);
  });
}

/**
 * Reverts the newest migration.
 *
 * @param dropData whether the migration may delete rows and column values
 * @returns the name of the reverted migration; an empty list when there is none
 * @throws MigrationLockedError after a lock timeout; DataLossError
 */
export function migrateDown(
  dataSource: DataSource,
  { dropData = false, ...options }: MigrateOptions & { readonly dropData?: boolean } = {},
): Promise<readonly string[]> {
  return withLock(dataSource, options, async (executor, queryRunner) => {
    const before = await executor.getExecutedMigrations();
    const [newest] = before.toSorted((a, b) => b.timestamp - a.timestamp);
    if (!dropData)
      await refuseDataLoss(
        queryRunner,
        dataSource.migrations.find(({ name }) => name === newest?.name),
      );
    await executor.undoLastMigration();
    const after = new Set((await executor.getExecutedMigrations()).map(({ name }) => name));
    return before.map(({ name }) => name).filter((name) => !after.has(name));
  });
}

/** Runs work in a transaction, under the advisory lock of migrations. Retries after a lock timeout. */
async function withLock<T>(
  dataSource: DataSource,
  { maxWaitMs = MAX_WAIT_MS, onWait = () => undefined }: MigrateOptions,
  work: (executor: MigrationExecutor, queryRunner: QueryRunner) => Promise<T>,
): Promise<T> {
  const deadline = Date.now() + maxWaitMs;
  let holders: string | undefined;
  for (;;) {
    const queryRunner = dataSource.createQueryRunner();
    const watch = new AbortController();
    try {
      await queryRunner.startTransaction();
      await queryRunner.query(`SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}`);
      const watched = watchHolders(dataSource, await backendOf(queryRunner), watch.signal, (found) => {
        if (holders === undefined) onWait(found);
        holders = found;
      });
      try {
        await queryRunner.query('SELECT pg_advisory_xact_lock($1)', [MIGRATION_LOCK]);
        const executor = new MigrationExecutor(dataSource, queryRunner);
        executor.transaction = 'none';
        const result = await work(executor, queryRunner);
        await queryRunner.commitTransaction();
        return result;
      } finally {
        watch.abort();
        await watched;
      }
    } catch (error) {
      if (queryRunner.isTransactionActive) await queryRunner.rollbackTransaction().catch(() => undefined);
      if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
      if (Date.now() > deadline) {
        throw new MigrationLockedError(
          `Nothing was migrated: a lock was waited for ${Math.round(maxWaitMs / 1000)} s. Held by ${holders ?? 'an unknown connection'}.`,
          { cause: error },
        );
      }
    } finally {
      await queryRunner.release();
    }
    await setTimeout(PAUSE_MS);
  }
}

async function backendOf(queryRunner: QueryRunner): Promise<number> {
  const [row] = (await queryRunner.query('SELECT pg_backend_pid() AS pid')) as { pid: number }[];
  return row?.pid ?? 0;
}

/** Polls for the connections that block a connection, until the signal is aborted. */
async function watchHolders(
  dataSource: DataSource,
  pid: number,
  signal: AbortSignal,
  onFound: (holders: string) => void,
): Promise<void> {
  while (!signal.aborted) {
    const stopped = await setTimeout(PAUSE_MS, false, { signal }).catch(() => true);
    if (stopped) return;
    const rows = (await dataSource
      .query(
        `SELECT 'process ' || pid || ' of the role ' || usename || coalesce(' (' || nullif(application_name, '') || ')', '')
           || coalesce(', in a transaction since ' || date_trunc('second', xact_start)::text, '') AS holder
         FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))`,
        [pid],
      )
      .catch(() => [])) as { holder: string }[];
    if (rows.length > 0) onFound(rows.map(({ holder }) => holder).join('; '));
  }
}
