import { Inject, Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import pg from 'pg';
import { SETTINGS, type Settings } from '../config/settings.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { outsideTraces } from '../observability/spans.js';
import { connectionOptions, connectionTarget } from './connection.js';
import {
  concernsEveryStatement,
  DatabaseUnavailableError,
  isLockFailure,
  lockedTable,
  PooledAddressError,
  toDatabaseFailure,
} from './database-failure.js';
import { HeldRows, type RowName } from './held-rows.js';
import { type PreparedStatement, preparedStatement } from './prepared-statement.js';

/** Runs a statement and returns its rows. */
export type RunStatement = <Row extends object>(
  statement: PreparedStatement,
  values: readonly unknown[],
) => Promise<Row[]>;

/** Connections reserved for upkeep. Requests use the rest of DATABASE_POOL_SIZE. */
export const UPKEEP_CONNECTIONS = 1;

/** Lock timeout of statements that several requests share: a locked row of one request must not delay the others. */
const SHORT_LOCK_TIMEOUT_MS = 50;

/** Lock timeout of a statement that belongs to one request. After it the request fails. */
const LONG_LOCK_TIMEOUT_MS = 1000;

/** Maximum number of connections that wait for locked rows at the same time. All other connections stay free. */
const WAITING_CONNECTIONS = 2;

/**
 * Planner settings. Every parameter is an index key, so one generic plan fits all values. Without these settings PostgreSQL
 * picks a sequential scan while a table is small. PostgreSQL keeps that plan for some time while the table grows.
 */
const INDEX_LOOKUPS_ONLY = {
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  enable_memoize: 'off',
  jit: 'off',
};

/** Checks that the server received the start-up parameters and is not read-only. */
const STATE = preparedStatement(
  'state',
  `SELECT setting::int AS "statementTimeoutMs", current_setting('transaction_read_only')::boolean AS "readOnly"
   FROM pg_settings WHERE name = 'statement_timeout'`,
);

/**
 * Connection pool for the prepared statements of requests. Each connection parses and plans a statement once: planning
 * takes longer than running. The plan is generic, because every parameter is an index key. Statements whose plan depends on
 * the values go through TypeORM.
 *
 * With a pooler in transaction mode, each transaction may get another connection. Statements are then unnamed. Each
 * transaction sets the time limits and planner settings itself, in the same round trip as its statement.
 */
@Injectable()
export class RequestDatabase implements OnModuleInit, OnApplicationShutdown {
  private readonly pool: pg.Pool;
  private readonly pooled: boolean;
  private readonly statementTimeoutMs: number;
  private readonly heldRows: HeldRows;
  /** The SQL that begins a transaction with the short or the long lock timeout. */
  private readonly begin: { readonly short: string; readonly long: string };

  constructor(@Inject(SETTINGS) { database }: Settings, @Inject(METRICS) metrics?: Metrics) {
    const { pooled, poolSize, connectTimeoutMs, statementTimeoutMs } = database;
    this.pooled = pooled;
    this.statementTimeoutMs = statementTimeoutMs;
    this.begin = pooled
      ? {
          short: beginWith({ ...INDEX_LOOKUPS_ONLY, ...limits(statementTimeoutMs, SHORT_LOCK_TIMEOUT_MS) }),
          long: beginWith({ ...INDEX_LOOKUPS_ONLY, ...limits(statementTimeoutMs, LONG_LOCK_TIMEOUT_MS) }),
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
      // Keep idle connections open: a new connection has to prepare all statements again.
      idleTimeoutMillis: 0,
      types: ID_TYPES,
      ...(pooled
        ? { pipeline: true }
        : {
            lock_timeout: SHORT_LOCK_TIMEOUT_MS,
            options: Object.entries(INDEX_LOOKUPS_ONLY)
              .map(([name, value]) => `-c ${name}=${value}`)
              .join(' '),
          }),
    });
    metrics?.watchConnections('requests', this.pool, connections);
    const logger = new Logger(RequestDatabase.name);
    // Without an `error` listener the process would end. A connection lost while in use fails its statement anyway.
    this.pool.on('connect', (client) => client.on('error', () => undefined));
    // The pool replaces a lost idle connection.
    this.pool.on('error', ({ name }) =>
      outsideTraces(() => logger.warn(`an idle connection to the database is lost: ${name}`)),
    );
  }

  /** @throws PooledAddressError when the server did not receive the start-up parameters: a pooler dropped them */
  async onModuleInit(): Promise<void> {
    const [state] = await this.run<{ statementTimeoutMs: number }>(STATE, []);
    if (!this.pooled && state?.statementTimeoutMs !== this.statementTimeoutMs) {
      throw new PooledAddressError('A pooler dropped the start-up parameters.');
    }
  }

  /**
   * Runs a statement of one request in its own transaction.
   *
   * @param rows rows that the statement locks and that other requests may use too. A result with rows means: lock acquired.
   * @returns the statement's rows
   * @throws DatabaseUnavailableError when the database failed, not the statement; also when a row stays locked for too long
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
   * Runs a statement that several requests share, in its own transaction. On a locked row the statement fails after
   * {@link SHORT_LOCK_TIMEOUT_MS}. {@link runAround} then finds the request of that row. A locked table blocks every
   * request: then the statement is run again with the long lock timeout.
   *
   * @throws DatabaseUnavailableError as {@link run}
   */
  runShared<Row extends object>(statement: PreparedStatement, values: readonly unknown[]): Promise<Row[]> {
    return this.retryTableLock((lockTimeout) => this.attempt<Row>(statement, values, lockTimeout));
  }

  /**
   * Runs the work of one request. While another transaction locks one of the rows, the work runs apart from other requests.
   *
   * @param rows rows that the statement locks
   * @param shared runs the work in a statement that several requests may share
   * @param alone runs the work in a separate statement with the long lock timeout
   * @param hadRows whether a result proves that the statement acquired the row locks
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

  /** Whether one of the rows is known to be locked by another transaction. */
  isHeld(rows: readonly RowName[]): boolean {
    return this.heldRows.isHeld(rows);
  }

  private async retryTableLock<T>(attempt: (lockTimeout: 'short' | 'long') => Promise<T>): Promise<T> {
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
    lockTimeout: 'short' | 'long',
  ): Promise<Row[]> {
    if (this.pooled) return this.attemptPooled(statement, values, lockTimeout);
    if (lockTimeout === 'long')
      return this.attemptTransaction((run) => run<Row>(statement, values), lockTimeout);
    return this.withClient((client) => rowsOf(query<Row>(client, { ...statement, values: [...values] })));
  }

  /** One round trip: the driver sends BEGIN, statement and COMMIT at once. After a failure COMMIT rolls back. */
  private attemptPooled<Row extends object>(
    statement: PreparedStatement,
    values: readonly unknown[],
    lockTimeout: 'short' | 'long',
  ): Promise<Row[]> {
    return this.withClient(async (client) => {
      const [begun, result, committed] = await Promise.allSettled([
        query(client, this.begin[lockTimeout]),
        rowsOf(query<Row>(client, { text: statement.text, values: [...values] })),
        query(client, 'COMMIT'),
      ]);
      for (const settled of [begun, result, committed])
        if (settled.status === 'rejected') throw settled.reason;
      return result.status === 'fulfilled' ? result.value : [];
    });
  }

  /**
   * Runs several statements in one transaction. Rolls back when `work` rejects. After a short lock timeout, `work` is run
   * again with the long lock timeout.
   *
   * @throws DatabaseUnavailableError as {@link run}, and any error of `work`
   */
  transaction<T>(work: (run: RunStatement) => Promise<T>): Promise<T> {
    return this.heldRows.run(
      [],
      () => this.retryTableLock((lockTimeout) => this.attemptTransaction(work, lockTimeout)),
      () => this.attemptTransaction(work, 'long'),
    );
  }

  private attemptTransaction<T>(
    work: (run: RunStatement) => Promise<T>,
    lockTimeout: 'short' | 'long',
  ): Promise<T> {
    return this.withClient(async (client) => {
      await query(client, this.begin[lockTimeout]);
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
   * Checks, on a connection of the request pool, that the database is writable.
   *
   * @throws DatabaseUnavailableError also when the database is read-only, such as a standby
   */
  async ping(): Promise<void> {
    const [state] = await this.run<{ readOnly: boolean }>(STATE, []);
    if (state?.readOnly !== false)
      throw new DatabaseUnavailableError(new Error('The database is read-only.'));
  }

  async onApplicationShutdown(): Promise<void> {
    await this.pool.end();
  }

  /**
   * Runs work on a connection of the pool. After a database failure the connection is closed, and the pool opens a new one.
   */
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

/** Parses bigint as a JavaScript number: ids are at most 2^53 - 1, checked before they reach a statement. */
const ID_TYPES: pg.CustomTypesConfig = {
  getTypeParser: (
    ...[oid, format]: Parameters<typeof pg.types.getTypeParser>
  ): ((value: string) => unknown) =>
    oid === pg.types.builtins.INT8
      ? Number
      : (pg.types.getTypeParser(oid, format) as (value: string) => unknown),
};
