import { Inject, Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import pg from 'pg';
import { SETTINGS, type Settings } from '../config/settings.js';
import { connectionOptions } from './data-source-options.js';

/** A statement that requests run over and over. */
export type PreparedStatement = { readonly name: string; readonly text: string };

/**
 * @param name unique among all; also stands in the statement, for those who look at what the server is doing
 * @param sql with `$1`, `$2`, … for its values
 */
export function preparedStatement(name: string, sql: string): PreparedStatement {
  return { name, text: `/* ${name} */ ${sql}` };
}

/**
 * How long a statement waits for a row that another transaction holds. Short, because statements are shared: whoever
 * asks for a held row must not keep the others waiting.
 */
const LOCK_TIMEOUT_MS = 1000;

/**
 * One plan for all values, and only look-ups in indexes: every value is a key. Left to its statistics, the server would
 * read a small table from end to end, and keep doing so for some time while the table grows.
 */
const LOOK_UPS_ONLY = Object.entries({
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  enable_memoize: 'off',
  jit: 'off',
})
  .map(([name, value]) => `-c ${name}=${value}`)
  .join(' ');

/**
 * Runs the few statements that most requests consist of, on connections of their own where each is parsed and planned
 * once: planning one takes longer than running it. The plan is made without looking at the values, as it should be where
 * every value is a key of an index; statements that depend on their values go through TypeORM.
 */
@Injectable()
export class PreparedStatements implements OnApplicationShutdown {
  private readonly pool: pg.Pool;

  constructor(@Inject(SETTINGS) { database }: Settings) {
    this.pool = new pg.Pool({
      ...connectionOptions(database),
      connectionString: database.url,
      application_name: 'chat-image-store requests',
      max: database.poolSize,
      connectionTimeoutMillis: database.connectTimeoutMs,
      lock_timeout: LOCK_TIMEOUT_MS,
      // A connection that was closed when idle would have to prepare all anew, for the first who asks again.
      idleTimeoutMillis: 0,
      options: LOOK_UPS_ONLY,
      types: ID_TYPES,
    });
    const logger = new Logger(PreparedStatements.name);
    // The pool replaces the connection; without a listener the process would end.
    this.pool.on('error', ({ name }) => logger.warn(`an idle connection to the database is lost: ${name}`));
  }

  /**
   * Runs a statement, in a transaction of its own.
   *
   * @returns its rows
   * @throws what the driver throws; `isDatabaseUnavailable` tells what it means
   */
  async run<Row extends object>(statement: PreparedStatement, values: readonly unknown[]): Promise<Row[]> {
    const { rows } = await this.pool.query<Row>({ ...statement, values: [...values] });
    return rows;
  }

  async onApplicationShutdown(): Promise<void> {
    await this.pool.end();
  }
}

/** Ids are numbers: they are checked to be at most 2^53 - 1 before they get into a statement. */
const ID_TYPES: pg.CustomTypesConfig = {
  getTypeParser: (
    ...[oid, format]: Parameters<typeof pg.types.getTypeParser>
  ): ((value: string) => unknown) =>
    oid === pg.types.builtins.INT8
      ? Number
      : (pg.types.getTypeParser(oid, format) as (value: string) => unknown),
};
