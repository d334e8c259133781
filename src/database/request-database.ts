import { Inject, Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import pg from 'pg';
import { SETTINGS, type Settings } from '../config/settings.js';
import { connectionOptions, connectionTarget } from './connection.js';
import {
  concernsEveryStatement,
  DatabaseUnavailableError,
  isLockFailure,
  lockedTable,
  toDatabaseFailure,
} from './database-failure.js';
import { HeldRows, type RowName } from './held-rows.js';

/** A statement that requests run over and over. */
export type PreparedStatement = { readonly name: string; readonly text: string };

/**
 * @param name unique among all; also stands in the statement, for those who look at what the server is doing
 * @param sql with `$1`, `$2`, … for its values
 */
export function preparedStatement(name: string, sql: string): PreparedStatement {
  return { name, text: `/* ${name} */ ${sql}` };
}

/** Runs a statement and returns its rows. */
export type RunStatement = <Row extends object>(
  statement: PreparedStatement,
  values: readonly unknown[],
) => Promise<Row[]>;

/** The address is a pooler's, but the settings say that it is the database's own. */
export class PooledAddressError extends Error {
  override readonly name = 'PooledAddressError';
}

/** How many connections upkeep has of the process's share; requests have the others. */
export const UPKEEP_CONNECTIONS = 1;

/** The lock timeout of statements that requests share: whoever asks for a held row must not keep the others waiting. */
const SHORT_LOCK_TIMEOUT_MS = 50;

/** The lock timeout of a statement that waits by itself, before its request fails. */
const LONG_LOCK_TIMEOUT_MS = 1000;

/** How many connections may wait for held rows at the same time, where others are left for all other requests. */
const WAITING_CONNECTIONS = 2;

/**
 * One plan for all values, and only look-ups in indexes: every value is a key. Left to its statistics, the server would
 * read a small table from end to end, and keep doing so for some time while the table grows.
 */
const LOOK_UPS_ONLY = {
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  enable_memoize: 'off',
  jit: 'off',
};

/** Whether the server has got the start-up parameters, and will take a row. */
const STATE = preparedStatement(
  'state',
  `SELECT setting::int AS "statementTimeoutMs", current_setting('transaction_read_only')::boolean AS "readOnly"
   FROM pg_settings WHERE name = 'statement_timeout'`,
);

/**
 * Runs the few statements that most requests consist of, on connections of their own where each is parsed and planned
 * once: planning one takes longer than running it. The plan is made without looking at the values, as it should be where
 * every value is a key of an index; statements that depend on their values go through TypeORM.
 *
 * Behind a pooler in transaction mode each transaction may get another connection, so nothing is kept on one: statements
 * have no name, and the time limits and planner settings are set in each transaction, sent together with its statement.
 */
@Injectable()
export class RequestDatabase implements OnModuleInit, OnApplicationShutdown {
  private readonly pool: pg.Pool;
  private readonly pooled: boolean;
  private readonly statementTimeoutMs: number;
  private readonly heldRows: HeldRows;
  /** The SQL that begins a transaction, by its lock timeout. */
  private readonly begin: { readonly short: string; readonly long: string };

  constructor(@Inject(SETTINGS) { database }: Settings) {
    const { pooled, poolSize, connectTimeoutMs, statementTimeoutMs } = database;
    this.pooled = pooled;
    this.statementTimeoutMs = statementTimeoutMs;
    this.begin = pooled
      ? {
          short: beginWith({ ...LOOK_UPS_ONLY, ...limits(statementTimeoutMs, SHORT_LOCK_TIMEOUT_MS) }),
          long: beginWith({ ...LOOK_UPS_ONLY, ...limits(statementTimeoutMs, LONG_LOCK_TIMEOUT_MS) }),
        }
      : { short: 'BEGIN', long: beginWith({ lock_timeout: LONG_LOCK_TIMEOUT_MS }) };
    const connections = poolSize - UPKEEP_CONNECTIONS;
    this.heldRows = new HeldRows(Math.min(WAITING_CONNECTIONS, connections - 1));
    this.pool = new pg.Pool({
      ...connectionTarget(database),
      ...connectionOptions(database),
      application_name: 'chat-image-store requests',
      max: connections,
      connectionTimeoutMillis: connectTimeoutMs,
      // A connection that was closed when idle would have to prepare all anew, for the first who asks again.
      idleTimeoutMillis: 0,
      types: ID_TYPES,
      ...(pooled
        ? { pipeline: true }
        : {
            lock_timeout: SHORT_LOCK_TIMEOUT_MS,
            options: Object.entries(LOOK_UPS_ONLY)
              .map(([name, value]) => `-c ${name}=${value}`)
              .join(' '),
          }),
    });
    const logger = new Logger(RequestDatabase.name);
    // Without listeners the process would end. What is lost while it is lent fails the statement on it.
    this.pool.on('connect', (client) => client.on('error', () => undefined));
    // The pool replaces an idle connection.
    this.pool.on('error', ({ name }) => logger.warn(`an idle connection to the database is lost: ${name}`));
  }

  /** @throws PooledAddressError where the start-up parameters got lost on their way: a pooler dropped them */
  async onModuleInit(): Promise<void> {
    const [state] = await this.run<{ statementTimeoutMs: number }>(STATE, []);
    if (!this.pooled && state?.statementTimeoutMs !== this.statementTimeoutMs) {
      throw new PooledAddressError('A pooler dropped the start-up parameters.');
    }
  }

  /**
   * Runs a statement of one request, in a transaction of its own.
   *
   * @param rows that it may have to wait for, where many requests may name the same; it has locked them when it returns any
   * @returns its rows
   * @throws DatabaseUnavailableError when the database failed, not the statement; also when a row is held for too long
   */
  run<Row extends object>(
    statement: PreparedStatement,
    values: readonly unknown[],
    rows: readonly RowName[] = [],
  ): Promise<Row[]> {
    return this.runAround(
      rows,
      () => this.runShared<Row>(statement, values),
      (run) => run<Row>(statement, values),
      (result) => result.length > 0,
    );
  }

  /**
   * Runs a statement that several requests share, in a transaction of its own. It fails as soon as it has waited for a held
   * row for a moment, so that {@link runAround} finds out whose row that is. Locks of a whole table are everybody's: they
   * are waited for.
   *
   * @throws DatabaseUnavailableError as {@link run}
   */
  runShared<Row extends object>(statement: PreparedStatement, values: readonly unknown[]): Promise<Row[]> {
    return this.waitForTables((patience) => this.attempt<Row>(statement, values, patience));
  }

  /**
   * Does the work of one request, and keeps it apart from all others while another transaction holds one of its rows.
   *
   * @param rows that it may have to wait for
   * @param shared does it in a statement that others may share
   * @param alone does it in a statement of its own, which waits longer for the rows
   * @param hadRows whether a result shows that the statement had the rows' locks
   * @throws DatabaseUnavailableError as {@link run}
   */
  runAround<T>(
    rows: readonly RowName[],
    shared: () => Promise<T>,
    alone: (run: RunStatement) => Promise<T>,
    hadRows: (result: T) => boolean,
  ): Promise<T> {
    const run: RunStatement = (statement, values) => this.attempt(statement, values, 'long');
    return this.heldRows.run(rows, shared, () => alone(run), hadRows);
  }

  /** Whether another transaction is known to hold one of the rows. */
  isHeld(rows: readonly RowName[]): boolean {
    return this.heldRows.isHeld(rows);
  }

  private async waitForTables<T>(attempt: (patience: 'short' | 'long') => Promise<T>): Promise<T> {
    try {
      return await attempt('short');
    } catch (error) {
      if (!isLockFailure(error) || lockedTable(error) !== undefined) throw error;
      return attempt('long');
    }
  }

  private attempt<Row extends object>(
    statement: PreparedStatement,
    values: readonly unknown[],
    patience: 'short' | 'long',
  ): Promise<Row[]> {
    if (this.pooled) return this.attemptPooled(statement, values, patience);
    if (patience === 'long') return this.attemptTransaction((run) => run<Row>(statement, values), patience);
    return this.withClient((client) => rowsOf(query<Row>(client, { ...statement, values: [...values] })));
  }

  /** One round trip: the driver sends all three before it waits. After a failure the last one rolls back. */
  private attemptPooled<Row extends object>(
    statement: PreparedStatement,
    values: readonly unknown[],
    patience: 'short' | 'long',
  ): Promise<Row[]> {
    return this.withClient(async (client) => {
      const [begun, result, committed] = await Promise.allSettled([
        query(client, this.begin[patience]),
        rowsOf(query<Row>(client, { text: statement.text, values: [...values] })),
        query(client, 'COMMIT'),
      ]);
      for (const settled of [begun, result, committed])
        if (settled.status === 'rejected') throw settled.reason;
      return result.status === 'fulfilled' ? result.value : [];
    });
  }

  /**
   * Runs several statements in one transaction, which is rolled back when `work` rejects. Where a lock is not to be had at
   * once, all of it is done again.
   *
   * @throws DatabaseUnavailableError as {@link run}, and what `work` throws
   */
  transaction<T>(work: (run: RunStatement) => Promise<T>): Promise<T> {
    return this.heldRows.run(
      [],
      () => this.waitForTables((patience) => this.attemptTransaction(work, patience)),
      () => this.attemptTransaction(work, 'long'),
    );
  }

  private attemptTransaction<T>(
    work: (run: RunStatement) => Promise<T>,
    patience: 'short' | 'long',
  ): Promise<T> {
    return this.withClient(async (client) => {
      await query(client, this.begin[patience]);
      try {
        const result = await work(
          <Row extends object>({ name, text }: PreparedStatement, values: readonly unknown[]) =>
            rowsOf(query<Row>(client, { ...(this.pooled ? {} : { name }), text, values: [...values] })),
        );
        await query(client, 'COMMIT');
        return result;
      } catch (error) {
        await query(client, 'ROLLBACK').catch(() => undefined);
        throw error;
      }
    });
  }

  /**
   * Asks, through the connections that requests use, whether the database would take their rows.
   *
   * @throws DatabaseUnavailableError also when it is read-only, as a standby is
   */
  async ping(): Promise<void> {
    const [state] = await this.run<{ readOnly: boolean }>(STATE, []);
    if (state?.readOnly !== false)
      throw new DatabaseUnavailableError(new Error('The database is read-only.'));
  }

  async onApplicationShutdown(): Promise<void> {
    await this.pool.end();
  }

  /** Lends a connection. One on which the database has failed is closed, and another one made for the next who asks. */
  private async withClient<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const client = await this.pool.connect().catch((error: unknown) => {
      throw new DatabaseUnavailableError(error);
    });
    let broken = false;
    try {
      return await work(client);
    } catch (error) {
      broken = concernsEveryStatement(error);
      throw error;
    } finally {
      client.release(broken);
    }
  }
}

async function query<Row extends object>(
  client: pg.PoolClient,
  statement: string | pg.QueryConfig,
): Promise<pg.QueryResult<Row>> {
  try {
    return await client.query<Row>(statement);
  } catch (error) {
    throw toDatabaseFailure(error);
  }
}

async function rowsOf<Row extends object>(result: Promise<pg.QueryResult<Row>>): Promise<Row[]> {
  return (await result).rows;
}

function limits(statementTimeoutMs: number, lockTimeoutMs: number): Readonly<Record<string, number>> {
  return { statement_timeout: statementTimeoutMs, lock_timeout: lockTimeoutMs };
}

function beginWith(settings: Readonly<Record<string, number | string>>): string {
  const statements = Object.entries(settings).map(([name, value]) => `SET LOCAL ${name} = ${value}`);
  return ['BEGIN', ...statements].join('; ');
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
