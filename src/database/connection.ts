import type pg from 'pg';
import type { ConnectionOptions } from 'node:tls';
import type { DatabaseSettings } from '../config/settings.js';
import { ImpatientClient } from './impatient-client.js';

/**
 * The client's timeout is this much longer than the server's statement timeout. It covers a server that does not respond.
 */
const CLIENT_GRACE_MS = 1000;

type Tls = Pick<ConnectionOptions, 'ca' | 'rejectUnauthorized' | 'checkServerIdentity'>;

/** Address and TLS options of a connection. `ssl` is missing when the URL already contains the TLS options. */
export type ConnectionTarget = {
  readonly connectionString: string;
  readonly ssl?: Tls | false;
};

/**
 * The address and TLS options of the database. `sslmode` in the URL works as in libpq, except that `require` and `prefer`
 * verify the certificate like `verify-full`: with DATABASE_CA_CERT if set, else with the public authorities. `verify-ca`
 * does not check the host name. `no-verify` checks nothing.
 */
export function connectionTarget({
  url,
  caCert,
}: Pick<DatabaseSettings, 'url' | 'caCert'>): ConnectionTarget {
  const address = new URL(url);
  const mode = address.searchParams.get('sslmode');
  const hasRootCert = address.searchParams.has('sslrootcert');
  if (caCert === undefined && (mode === null || hasRootCert)) return { connectionString: url };
  // In pg, parameters of the URL override `ssl`.
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
 * Options of every connection, without its target. A pooler drops start-up parameters. With a pooler, the client's timeout
 * applies, and {@link RequestDatabase} sets the server's timeouts in each transaction.
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
    // A statement timeout of 0 means no timeout.
    ...(statementTimeoutMs === 0 ? {} : { query_timeout: statementTimeoutMs + CLIENT_GRACE_MS }),
    ...(statementTimeoutMs === 0 || pooled ? {} : { statement_timeout: statementTimeoutMs }),
  };
}
