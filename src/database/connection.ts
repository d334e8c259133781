import type pg from 'pg';
import type { ConnectionOptions } from 'node:tls';
import type { DatabaseSettings } from '../config/settings.js';
import { ImpatientClient } from './impatient-client.js';

/** How much later than the server's own statement timeout the client gives up, for a server that does not answer. */
const CLIENT_GRACE_MS = 1000;

/** Where a connection goes, and how it is encrypted; `ssl` is left out where the URL itself says all. */
type Tls = Pick<ConnectionOptions, 'ca' | 'rejectUnauthorized' | 'checkServerIdentity'>;

export type ConnectionTarget = {
  readonly connectionString: string;
  readonly ssl?: Tls | false;
};

/**
 * The address of the database and its TLS. `sslmode` of the URL counts as in libpq, but `require` and `prefer` verify the
 * server as `verify-full` does: by DATABASE_CA_CERT where it is set, else by the public authorities. `verify-ca` does
 * without the host's name, `no-verify` without any proof.
 */
export function connectionTarget({
  url,
  caCert,
}: Pick<DatabaseSettings, 'url' | 'caCert'>): ConnectionTarget {
  const address = new URL(url);
  const mode = address.searchParams.get('sslmode');
  const named = address.searchParams.has('sslrootcert');
  if (caCert === undefined && (mode === null || named)) return { connectionString: url };
  // The driver prefers the URL's parameters to `ssl`.
  for (const name of ['sslmode', 'sslrootcert']) address.searchParams.delete(name);
  return { connectionString: address.href, ssl: tlsOptions(mode ?? 'verify-full', caCert) };
}

function tlsOptions(mode: string, caCert: string | undefined): Tls | false {
  if (mode === 'disable') return false;
  if (mode === 'no-verify') return { rejectUnauthorized: false };
  return {
    ...(caCert === undefined ? {} : { ca: caCert }),
    ...(mode === 'verify-ca' ? { checkServerIdentity: () => undefined } : {}),
  };
}

/**
 * Options that every connection has in common, but its target. A pooler takes no start-up parameters, and would lose them: there
 * the client's own time limit holds, and {@link RequestDatabase} sets the server's in each transaction.
 */
export function connectionOptions({
  statementTimeoutMs,
  pooled,
}: Pick<DatabaseSettings, 'statementTimeoutMs' | 'pooled'>): pg.PoolConfig & {
  readonly Client: typeof pg.Client;
} {
  return {
    keepAlive: true,
    Client: ImpatientClient,
    // A statement timeout of 0 is none.
    ...(statementTimeoutMs === 0 ? {} : { query_timeout: statementTimeoutMs + CLIENT_GRACE_MS }),
    ...(statementTimeoutMs === 0 || pooled ? {} : { statement_timeout: statementTimeoutMs }),
  };
}
