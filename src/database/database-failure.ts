import { isNativeError } from 'node:util/types';
import pg from 'pg';

/**
 * The database is down, read-only, out of something, or slow past its limit. `cause` is the driver's error. A statement
 * that is itself wrong, or violates a constraint, is no such failure.
 */
export class DatabaseUnavailableError extends Error {
  override readonly name = 'DatabaseUnavailableError';

  constructor(cause: unknown) {
    super('The database is down, or slow past its limit.', { cause });
  }
}

/**
 * SQLSTATE classes of a server that fails whoever asks: connection exceptions, a transaction state such as read-only,
 * refused log-ins, no such database, rollbacks such as deadlocks, insufficient resources, a lock not to be had, operator
 * intervention, system errors, a broken configuration, internal errors.
 *
 * @see https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const UNAVAILABLE_SQLSTATE = /^(08|25|28|3D|40|53|55P03|57|58|F0|XX)/;

const LOCK_NOT_AVAILABLE = '55P03';

/** Of these, what befell one statement for the rows that it touched. */
const ABOUT_ROWS_SQLSTATE = /^(40|55P03)/;

/**
 * Tells a failure of the database from one of the statement.
 *
 * @param error what the driver threw while it connected or ran a statement
 * @returns a {@link DatabaseUnavailableError} of it, or the error as it is
 */
export function toDatabaseFailure(error: unknown): unknown {
  const sqlState = error instanceof pg.DatabaseError ? (error.code ?? '') : undefined;
  // Without an SQLSTATE it is the driver's own: connections that are refused, cut, or silent for too long. Only values that
  // it can't write into a statement are the caller's fault.
  const unavailable =
    sqlState === undefined
      ? !(error instanceof TypeError || error instanceof RangeError)
      : UNAVAILABLE_SQLSTATE.test(sqlState) || endsConnection(error);
  return unavailable ? new DatabaseUnavailableError(error) : error;
}

/** Whether the server ended the connection with its error, or refused it: then its SQLSTATE may be any. */
function endsConnection(error: unknown): boolean {
  return error instanceof pg.DatabaseError && (error.severity === 'FATAL' || error.severity === 'PANIC');
}

/**
 * Whether an error says that the server failed whoever asked, so that the same statement about other rows would have
 * failed as well.
 */
export function concernsEveryStatement(error: unknown): boolean {
  return error instanceof DatabaseUnavailableError && !ABOUT_ROWS_SQLSTATE.test(sqlState(error) ?? '');
}

/** Whether a lock was not to be had in time. */
export function isLockFailure(error: unknown): boolean {
  return sqlState(error) === LOCK_NOT_AVAILABLE;
}

/**
 * The table of the row whose lock a statement waited for in vain. PostgreSQL names it in the error's context: by the query of
 * a foreign key's check, or in a sentence.
 *
 * @returns an empty text where the context names no table; `undefined` for every other error, and for a lock of a whole
 *   table or an advisory lock, which have no context
 */
export function lockedTable(error: unknown): string | undefined {
  const cause = driverError(error);
  if (!isLockFailure(error) || !(cause instanceof pg.DatabaseError) || !cause.where) return undefined;
  const [, ofCheck, ofSentence] =
    /FROM ONLY (?:"[^"]+"\.)?"([^"]+)" x WHERE|relation "([^"]+)"/.exec(cause.where) ?? [];
  return ofCheck ?? ofSentence ?? '';
}

/** The code of a failed statement, such as `23505`, or of a failed connection, such as `ECONNREFUSED`. */
export function sqlState(error: unknown): string | undefined {
  const cause = driverError(error);
  return cause && 'code' in cause && typeof cause.code === 'string' ? cause.code : undefined;
}

/** The name of the constraint that a failed statement violated. */
export function violatedConstraint(error: unknown): string | undefined {
  const cause = driverError(error);
  return cause instanceof pg.DatabaseError ? cause.constraint : undefined;
}

/** The driver's error, which TypeORM and {@link DatabaseUnavailableError} wrap. */
export function driverError(error: unknown): Error | undefined {
  const wrapped: unknown =
    error instanceof DatabaseUnavailableError
      ? error.cause
      : isNativeError(error) && 'driverError' in error
        ? error.driverError
        : error;
  return isNativeError(wrapped) ? wrapped : undefined;
}
