import { driverError, PooledAddressError, sqlState } from './database-failure.js';

const UNREACHABLE =
  'The database does not answer: check the host and port in DATABASE_URL, and that it is running.';

const POOLED =
  'DATABASE_URL leads to a connection pooler: set DATABASE_POOLER=transaction, and DATABASE_DIRECT_URL to the database itself for npm run migrate.';

const UNKNOWN_AUTHORITY =
  "The database's certificate is of an authority that is not known: set DATABASE_CA_CERT to the CA certificate that its provider hands out.";

/** Advice for a failed connection, by system error code, TLS error code or SQLSTATE. */
const HINTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: UNREACHABLE,
  ECONNRESET: UNREACHABLE,
  EHOSTUNREACH: UNREACHABLE,
  ENETUNREACH: UNREACHABLE,
  ENOTFOUND: UNREACHABLE,
  EAI_AGAIN: UNREACHABLE,
  ETIMEDOUT: UNREACHABLE,
  SELF_SIGNED_CERT_IN_CHAIN: UNKNOWN_AUTHORITY,
  DEPTH_ZERO_SELF_SIGNED_CERT: UNKNOWN_AUTHORITY,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNKNOWN_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT: UNKNOWN_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNKNOWN_AUTHORITY,
  CERT_SIGNATURE_FAILURE: UNKNOWN_AUTHORITY,
  CERT_HAS_EXPIRED:
    "The database's certificate, or its authority's in DATABASE_CA_CERT, has expired: renew it.",
  CERT_NOT_YET_VALID: "The database's certificate is not valid yet: check the clock of this machine.",
  ERR_TLS_CERT_ALTNAME_INVALID:
    "The database's certificate is for another host name: write that name in DATABASE_URL, or sslmode=verify-ca to go by the authority alone.",
  '28P01': 'The database refuses the user or password in DATABASE_URL.',
  '28000':
    'The database refuses the user in DATABASE_URL, or a connection without TLS: check the user, or add ?sslmode=require.',
  '3D000': 'There is no such database: check the name at the end of DATABASE_URL.',
  '53300':
    'The database has no connection left: lower DATABASE_POOL_SIZE, or use the address of its pooler with DATABASE_POOLER=transaction.',
  '57P03': 'The database is starting up or shutting down: try again in a moment.',
  '42P01': 'The database has no tables of this service yet: run npm run migrate.',
  '42703': 'The tables of this service are of an older version: run npm run migrate.',
  '42501': 'The role in DATABASE_URL has too few rights: see "Database roles" in docs/operations.md.',
  '08P01': POOLED,
};

/** Advice by error message, for driver errors without a code. */
const HINTS_BY_MESSAGE: readonly (readonly [RegExp, string])[] = [
  [
    /does not support SSL/,
    'The database does not offer TLS: take sslmode out of DATABASE_URL, and DATABASE_CA_CERT away.',
  ],
  [/timeout|terminated|SSL connection/i, UNREACHABLE],
];

/**
 * Advice for the operator on a database error at start.
 *
 * @returns one line that contains no setting's value; `undefined` when the error is not a database error
 */
export function connectionHint(error: unknown): string | undefined {
  if (error instanceof PooledAddressError) return POOLED;
  const cause = driverError(error);
  if (!cause) return undefined;
  const known = HINTS[sqlState(error) ?? ''];
  if (known !== undefined) return known;
  return HINTS_BY_MESSAGE.find(([message]) => message.test(cause.message))?.[1];
}

/** Whether a retry can help: the database is unreachable, starting up or shutting down. */
export function isUnreachable(error: unknown): boolean {
  const hint = connectionHint(error);
  return hint === UNREACHABLE || hint === HINTS['57P03'];
}
