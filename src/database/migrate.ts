import { setTimeout } from 'node:timers/promises';
import { type DataSource, MigrationExecutor, type QueryRunner } from 'typeorm';
import { refuseDataLoss } from './data-loss.js';
import { sqlState } from './database-failure.js';

/** Any number, the same in every instance: two that start at once must not migrate at once. */
const MIGRATION_LOCK = 7_241_090_145;

/** How long one try waits for a lock. Short: while it waits for a table, whoever comes later waits behind it. */
const LOCK_TIMEOUT_MS = 2000;

/** How long all tries together wait, and the pause between two of them. */
const MAX_WAIT_MS = 60_000;
const PAUSE_MS = 500;

const LOCK_NOT_AVAILABLE = '55P03';

/** Somebody else held a lock for longer than a migration waits. */
export class MigrationLockedError extends Error {
  override readonly name = 'MigrationLockedError';
}

type MigrateOptions = {
  readonly maxWaitMs?: number;
  /** Told once, when a lock is waited for: by whom it is held. */
  readonly onWait?: (holders: string) => void;
};

/**
 * Runs every migration that has not run yet, all in one transaction.
 *
 * @returns their names
 * @throws MigrationLockedError when a lock is not to be had; TableMismatchError
 */
export function migrateUp(dataSource: DataSource, options: MigrateOptions = {}): Promise<readonly string[]> {
  return withLock(dataSource, options, async (executor) => {
    const migrations = await executor.executePendingMigrations();
    return migrations.map(({ name }) => name);
  });
}

/**
 * Takes the newest migration back.
 *
 * @param dropData whether rows, and values of columns, may go with it
 * @returns its name, or nothing when there is none
 * @throws MigrationLockedError when a lock is not to be had; DataLossError
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

/** Runs work in a transaction that no other migration is in; again when a lock of a table was not to be had. */
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

/** Looks, until it is told to stop, for whom a connection waits. */
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
