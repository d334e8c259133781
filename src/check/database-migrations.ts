import type pg from 'pg';
import type { MigrationInterface } from 'typeorm';
import type { DatabaseSettings } from '../config/settings.js';
import { ENTITIES } from '../chat-images/entities/entities.js';
import { dataSourceOptions } from '../database/data-source-options.js';
import { sqlState } from '../database/database-failure.js';
import { type Finding, ok, warning, wrong } from './finding.js';

const NAME = 'database migrations';
const INSUFFICIENT_PRIVILEGE = '42501';

/** Checks for pending migrations. */
export async function checkMigrations(client: pg.Client, settings: DatabaseSettings): Promise<Finding> {
  const { migrationsTableName = 'migrations', migrations = [] } = dataSourceOptions(settings, ENTITIES);
  const known = Object.values(migrations).map(nameOf);
  const run = await namesIn(client, migrationsTableName);
  if (run === 'unreadable') {
    return warning(
      NAME,
      `the role in DATABASE_URL may not read ${migrationsTableName}: run npm run migrate to be sure`,
    );
  }
  const pending = known.filter((name) => !run.includes(name));
  if (pending.length > 0) return wrong(NAME, `${pending.length} pending: run npm run migrate`);
  const newer = run.filter((name) => !known.includes(name));
  return newer.length > 0
    ? warning(NAME, `${newer.length} of a newer version of the service have run: bring this one up to date`)
    : ok(NAME, 'all have run');
}

async function namesIn(client: pg.Client, table: string): Promise<readonly string[] | 'unreadable'> {
  const { rows: found } = await client.query<{ found: boolean }>(
    'SELECT to_regclass($1) IS NOT NULL AS found',
    [table],
  );
  if (!found[0]?.found) return [];
  try {
    const { rows } = await client.query<{ name: string }>(
      `SELECT name FROM ${client.escapeIdentifier(table)}`,
    );
    return rows.map(({ name }) => name);
  } catch (error) {
    if (sqlState(error) === INSUFFICIENT_PRIVILEGE) return 'unreadable';
    throw error;
  }
}

/** The name of a migration in TypeORM's table. */
function nameOf(migration: unknown): string {
  const { name } = new (migration as new () => MigrationInterface)();
  if (name === undefined) throw new Error('Every migration has a name.');
  return name;
}
