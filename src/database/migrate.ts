import type { DataSource } from 'typeorm';

/** Any number, the same in every instance: two that start at once must not migrate at once. */
const MIGRATION_LOCK = 7_241_090_145;

/**
 * Runs every migration that has not run yet.
 *
 * @returns their names
 */
export function migrateUp(dataSource: DataSource): Promise<readonly string[]> {
  return withLock(dataSource, async () => {
    const migrations = await dataSource.runMigrations({ transaction: 'each' });
    return migrations.map(({ name }) => name);
  });
}

/**
 * Takes the newest migration back.
 *
 * @returns its name, or nothing when there is none
 */
export function migrateDown(dataSource: DataSource): Promise<readonly string[]> {
  return withLock(dataSource, async () => {
    const before = await executed(dataSource);
    if (before.length === 0) return [];
    await dataSource.undoLastMigration({ transaction: 'each' });
    const after = new Set(await executed(dataSource));
    return before.filter((name) => !after.has(name));
  });
}

async function executed(dataSource: DataSource): Promise<readonly string[]> {
  const table = dataSource.options.migrationsTableName ?? 'migrations';
  const rows = await dataSource.query<{ name: string }[]>(
    `SELECT name FROM ${dataSource.driver.escape(table)} ORDER BY id`,
  );
  return rows.map(({ name }) => name);
}

async function withLock<T>(dataSource: DataSource, work: () => Promise<T>): Promise<T> {
  const holder = dataSource.createQueryRunner();
  try {
    await holder.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK]);
    return await work();
  } finally {
    await holder.query('SELECT pg_advisory_unlock($1)', [MIGRATION_LOCK]).catch(() => undefined);
    await holder.release();
  }
}
