import pg from 'pg';
import type { DatabaseSettings } from '../config/settings.js';
import { connectionOptions, connectionTarget } from '../database/connection.js';
import { connectionHint } from '../database/connection-hints.js';
import { sqlState } from '../database/database-failure.js';

/**
 * Opens one connection.
 *
 * @param settings the address and its time limits
 * @param startUp parameters that the server is sent with the first message; a pooler takes none
 */
export async function connect(
  settings: DatabaseSettings,
  startUp: Pick<pg.ClientConfig, 'statement_timeout'> = {},
): Promise<pg.Client> {
  const client = new pg.Client({
    ...connectionTarget(settings),
    // A pooler refuses parameters that it is not asked to take; whether it does is one of the checks.
    ...connectionOptions({ ...settings, pooled: true }),
    connectionTimeoutMillis: settings.connectTimeoutMs,
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

/** The advice for a connection that fails. */
export function connectionAdvice(error: unknown): string {
  const hint = connectionHint(error) ?? `The database failed (${sqlState(error) ?? 'without a code'}).`;
  return hint.replace(/\.$/, '');
}
