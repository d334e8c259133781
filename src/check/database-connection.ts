import pg from 'pg';
import type { DatabaseSettings } from '../config/settings.js';
import { connectionOptions, connectionTarget } from '../database/connection.js';
import { connectionHint } from '../database/connection-hints.js';
import { sqlState } from '../database/database-failure.js';

/**
 * Opens one connection.
 *
 * @param settings the address and timeouts
 * @param startUp start-up parameters for the server; a pooler refuses or drops them
 */
export async function connect(
  settings: DatabaseSettings,
  startUp: Pick<pg.ClientConfig, 'statement_timeout'> = {},
): Promise<pg.Client> {
  const client = new pg.Client({
    ...connectionTarget(settings),
    // No start-up parameters by default: a pooler may refuse them. A separate check tests this.
    ...connectionOptions({ ...settings, pooled: true }),
    connectionTimeoutMillis: settings.connectTimeoutMs,
    ...startUp,
  });
  // The running statement reports a lost connection.
  client.on('error', () => undefined);
  try {
    await client.connect();
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    throw error;
  }
}

/** Advice for a failed connection. */
export function connectionAdvice(error: unknown): string {
  const hint = connectionHint(error) ?? `The database failed (${sqlState(error) ?? 'without a code'}).`;
  return hint.replace(/\.$/, '');
}
