import type { MigrationInterface, QueryRunner } from 'typeorm';

/** A migration whose `down` drops tables or columns with data. */
export interface DroppingMigration extends MigrationInterface {
  /** @returns tables, and columns as `table.column` */
  drops(queryRunner: QueryRunner): Promise<readonly string[]>;
}

/** Rows of a table, or values of a column that are not its default. */
export type Loss = { readonly of: string; readonly count: number };

/** The migration would drop data, and the operator has not allowed it. Nothing was changed. */
export class DataLossError extends Error {
  override readonly name = 'DataLossError';

  constructor(readonly losses: readonly Loss[]) {
    super(
      losses.map(({ of, count }) => `${count} ${of.includes('.') ? 'values' : 'rows'} of ${of}`).join(', '),
    );
  }
}

/**
 * Counts the data that `down` of a migration would drop. When there is none, the tables stay locked until the end of the
 * transaction, so that no new data can appear.
 *
 * @throws DataLossError
 */
export async function refuseDataLoss(
  queryRunner: QueryRunner,
  migration: MigrationInterface | undefined,
): Promise<void> {
  if (!migration || !isDropping(migration)) return;
  const dropped = await migration.drops(queryRunner);
  if (dropped.length === 0) return;
  // First count without a lock: counting many rows is slow, and a refused migration should block no request.
  await refuseLosses(queryRunner, dropped);
  const tables = new Set(dropped.map((name) => name.split('.')[0]));
  await queryRunner.query(`LOCK TABLE ${[...tables].join(', ')} IN ACCESS EXCLUSIVE MODE`);
  await refuseLosses(queryRunner, dropped);
}

async function refuseLosses(queryRunner: QueryRunner, dropped: readonly string[]): Promise<void> {
  const losses: Loss[] = [];
  for (const of of dropped) {
    const [table = '', column] = of.split('.');
    const where =
      column === undefined
        ? ''
        : `WHERE ${column} IS DISTINCT FROM ${await defaultOf(queryRunner, table, column)}`;
    const [row] = (await queryRunner.query(`SELECT count(*) AS count FROM ${table} ${where}`)) as {
      count: number;
    }[];
    if (row && row.count > 0) losses.push({ of, count: row.count });
  }
  if (losses.length > 0) throw new DataLossError(losses);
}

async function defaultOf(queryRunner: QueryRunner, table: string, column: string): Promise<string> {
  const [row] = (await queryRunner.query(
    `SELECT pg_get_expr(adbin, adrelid) AS expression FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
     WHERE adrelid = $1::regclass AND attname = $2`,
    [table, column],
  )) as { expression: string }[];
  return row ? `(${row.expression})` : 'NULL';
}

function isDropping(migration: MigrationInterface): migration is DroppingMigration {
  return 'drops' in migration;
}
