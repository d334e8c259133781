import { isNativeError } from 'node:util/types';

/** Connection exceptions, rollbacks such as deadlocks, insufficient resources, a lock not to be had, operator intervention. */
const UNAVAILABLE_SQLSTATE = /^(08|40|53|55P03|57)/;

/** Of these, what befell one statement for the rows that it touched. */
const ABOUT_ROWS_SQLSTATE = /^(40|55P03)/;

const UNAVAILABLE_SYSTEM_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
]);

/** What pg and pg-pool say, without a code, of a connection that is lost or not to be had. */
const UNAVAILABLE_MESSAGE =
  /^(timeout exceeded when trying to connect|Connection terminated|Query read timeout|Client has encountered a connection error|Cannot use a pool after calling end)/;

/**
 * Whether an error means that the database is down, or slow past its limit, rather than that a statement was wrong.
 *
 * @see https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
export function isDatabaseUnavailable(error: unknown): boolean {
  const cause = driverError(error);
  if (!cause) return false;
  const code = sqlState(error) ?? '';
  return (
    UNAVAILABLE_SQLSTATE.test(code) ||
    UNAVAILABLE_SYSTEM_CODES.has(code) ||
    UNAVAILABLE_MESSAGE.test(cause.message)
  );
}

/**
 * Whether an error says that the server failed whoever asked, so that the same statement about other rows would have
 * failed as well.
 */
export function concernsEveryStatement(error: unknown): boolean {
  return isDatabaseUnavailable(error) && !ABOUT_ROWS_SQLSTATE.test(sqlState(error) ?? '');
}

/** The code of a failed statement, such as `23505`, or of a failed connection, such as `ECONNREFUSED`. */
export function sqlState(error: unknown): string | undefined {
  const cause = driverError(error);
  return cause && 'code' in cause && typeof cause.code === 'string' ? cause.code : undefined;
}

/** The name of the constraint that a failed statement violated. */
export function violatedConstraint(error: unknown): string | undefined {
  const cause = driverError(error);
  return cause && 'constraint' in cause && typeof cause.constraint === 'string'
    ? cause.constraint
    : undefined;
}

/** TypeORM wraps the driver's error of a failed statement. */
function driverError(error: unknown): Error | undefined {
  const cause: unknown = isNativeError(error) && 'driverError' in error ? error.driverError : error;
  return isNativeError(cause) ? cause : undefined;
}
