import pg from 'pg';
import type { DatabaseSettings } from '../config/settings.js';
import { sqlState } from '../database/database-failure.js';

const ADVICE: Readonly<Record<string, string>> = {
  '28P01': 'the database refuses the user or password in DATABASE_URL',
  '28000': 'the database refuses the user in DATABASE_URL',
  '3D000': 'there is no such database: check the name at the end of DATABASE_URL',
  '53300': 'the database has no connection left',
};

/**
 * Opens one connection.
 *
 * @param settings the address and its time limits
 * @param startUp parameters that the server is sent with the first message; a pooler takes none
 */
export async function connect(
  settings: Pick<DatabaseSettings, 'url' | 'connectTimeoutMs' | 'statementTimeoutMs'>,
  startUp: Pick<pg.ClientConfig, 'statement_timeout'> = {},
): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString: settings.url,
    connectionTimeoutMillis: settings.connectTimeoutMs,
    query_timeout: settings.statementTimeoutMs,
    ...startUp,
  });
  // A connection that is cut is told of by the statement on it.
  client.on('error', () => undefined);
  try {
    await client.connect();
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    throw error;
  }
}

/** What to do about a connection that fails. */
export function connectionAdvice(error: unknown): string {
  const code = sqlState(error) ?? '';
  return (
    ADVICE[code] ??
    `the database does not answer${code === '' ? '' : ` (${code})`}: check the host and port in DATABASE_URL, and that it is running`
  );
}
