import { isNativeError } from 'node:util/types';
import pg from 'pg';

/**
 * The database is down, read-only, out of resources, or slower than its time limit. `cause` is the driver's error.
 * An invalid statement or a violated constraint is not this error.
 */
export class DatabaseUnavailableError extends Error {
  override readonly name = 'DatabaseUnavailableError';

  constructor(cause: unknown) {
    super('The database is down, or slow past its limit.', { cause });
  }
}

/** DATABASE_URL leads to a connection pooler, but DATABASE_POOLER is not set. */
export class PooledAddressError extends Error {
  override readonly name = 'PooledAddressError';
}

/**
 * SQLSTATE classes of server failures, independent of the statement:
 * - 08 connection, 25 transaction state such as read-only, 28 refused log-in, 3D unknown database
 * - 40 rollback such as a deadlock, 53 insufficient resources, 55P03 lock timeout, 57 operator intervention
 * - 58 system error, F0 configuration, XX internal error
 *
 * @see https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const UNAVAILABLE_SQLSTATE = /^(08|25|28|3D|40|53|55P03|57|58|F0|XX)/;

const LOCK_NOT_AVAILABLE = '55P03';

/** The server failures that depend on the rows of the statement: deadlock, lock timeout. Other rows may succeed. */
const ROW_SPECIFIC_SQLSTATE = /^(40|55P03)/;

/**
 * Separates failures of the database from failures of the statement.
 *
 * @param error thrown by the driver while connecting or running a statement
 * @returns a {@link DatabaseUnavailableError} with the error as cause, or the unchanged error
 */
export function toDatabaseFailure(error: unknown): unknown {
  const sqlState = error instanceof pg.DatabaseError ? (error.code ?? '') : undefined;
  // An error without SQLSTATE comes from the driver: connection refused, connection lost, timeout.
  // TypeError and RangeError are the caller's fault: values that the driver can't serialize.
  const unavailable =
    sqlState === undefined
      ? !(error instanceof TypeError || error instanceof RangeError)
      : UNAVAILABLE_SQLSTATE.test(sqlState) || endsConnection(error);
  return unavailable ? new DatabaseUnavailableError(error) : error;
}

/** Whether the server closed or refused the connection. Such errors can have any SQLSTATE. */
function endsConnection(error: unknown): boolean {
  return error instanceof pg.DatabaseError && (error.severity === 'FATAL' || error.severity === 'PANIC');
}

/**
 * Whether an error is independent of the rows: the same statement on other rows would fail too.
 */
export function concernsEveryStatement(error: unknown): boolean {
  return error instanceof DatabaseUnavailableError && !ROW_SPECIFIC_SQLSTATE.test(sqlState(error) ?? '');
}

/** Whether the error is a lock timeout. */
export function isLockFailure(error: unknown): boolean {
  return sqlState(error) === LOCK_NOT_AVAILABLE;
}

/**
 * The table of the locked row after a lock timeout. PostgreSQL names the table in the error's context: in the query of a
 * foreign key check, or in a sentence.
 *
 * @returns an empty string when the context names no table; `undefined` for any other error. Table locks and advisory locks
 *   have no context: also `undefined`.
 */
export function lockedTable(error: unknown): string | undefined {
  const cause = driverError(error);
  if (!isLockFailure(error) || !(cause instanceof pg.DatabaseError) || !cause.where) return undefined;
  const [, inForeignKeyCheck, inSentence] =
    /FROM ONLY (?:"[^"]+"\.)?"([^"]+)" x WHERE|relation "([^"]+)"/.exec(cause.where) ?? [];
  return inForeignKeyCheck ?? inSentence ?? '';
}

/** The SQLSTATE of a failed statement, such as `23505`, or the code of a failed connection, such as `ECONNREFUSED`. */
export function sqlState(error: unknown): string | undefined {
  const cause = driverError(error);
  return cause && 'code' in cause && typeof cause.code === 'string' ? cause.code : undefined;
}

/** The name of the constraint that a failed statement violated. */
export function violatedConstraint(error: unknown): string | undefined {
  const cause = driverError(error);
  return cause instanceof pg.DatabaseError ? cause.constraint : undefined;
}

/** The driver's error, unwrapped from TypeORM's error or {@link DatabaseUnavailableError}. */
export function driverError(error: unknown): Error | undefined {
  const wrapped: unknown =
    error instanceof DatabaseUnavailableError
      ? error.cause
      : isNativeError(error) && 'driverError' in error
        ? error.driverError
        : error;
  return isNativeError(wrapped) ? wrapped : undefined;
}
