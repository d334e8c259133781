import type pg from 'pg';
import type { DatabaseSettings } from '../config/settings.js';
import { type Finding, ok, warning, wrong } from './finding.js';

const NAME = 'database address';

/** Number of comparisons of two connections before a pooler counts as session pooler. */
const COMPARISONS = 3;

/** A value that no server has by default. */
const UNUSUAL_TIMEOUT_MS = 54_321;

/** Opens another connection to the checked address. */
type Connect = (startUp?: Pick<pg.ClientConfig, 'statement_timeout'>) => Promise<pg.Client>;

/** Checks whether an address leads to the database itself or to a pooler, and whether DATABASE_POOLER agrees. */
export async function checkAddress({ pooled }: DatabaseSettings, open: Connect): Promise<Finding> {
  const pooling = await poolingOf(open);
  if (pooled) {
    return pooling === 'none'
      ? warning(NAME, 'direct, though DATABASE_POOLER=transaction: set it to none, which is faster')
      : ok(NAME, "a pooler's, as DATABASE_POOLER says");
  }
  if (pooling === 'none') return ok(NAME, 'leads to the database itself, as DATABASE_POOLER says');
  return pooling === 'session' && (await keepsStartUpParameters(open))
    ? ok(NAME, 'a pooler that keeps sessions whole, which needs no DATABASE_POOLER')
    : wrong(
        NAME,
        'a connection pooler: set DATABASE_POOLER=transaction, and DATABASE_DIRECT_URL to the database itself for npm run migrate',
      );
}

/** Checks that DATABASE_DIRECT_URL leads to the database itself, which migrations need. */
export async function checkDirectAddress(open: Connect): Promise<Finding> {
  const name = 'database direct address';
  return (await poolingOf(open)) === 'transaction'
    ? wrong(name, "DATABASE_DIRECT_URL is a pooler's too: write the address of the database itself")
    : ok(name, 'DATABASE_DIRECT_URL leads to the database, for npm run migrate');
}

/**
 * Detects a pooler by the id of the server process. The database sends its process id when the connection is opened; a
 * pooler sends another number. In transaction mode, an open transaction occupies the first server process. The next
 * statement of the other connection then runs in another server process.
 */
async function poolingOf(open: Connect): Promise<'none' | 'session' | 'transaction'> {
  const [firstClient, secondClient] = await openTwo(open);
  try {
    const first = await backendOf(firstClient);
    if (first === announcedBackend(firstClient)) return 'none';
    for (let comparison = 0; comparison < COMPARISONS; comparison += 1) {
      const before = await backendOf(firstClient);
      await secondClient.query('BEGIN');
      await backendOf(secondClient);
      // With a pool size of one, the statement fails with a timeout.
      const after = await backendOf(firstClient).catch(() => undefined);
      await secondClient.query('ROLLBACK');
      if (after !== before) return 'transaction';
    }
    return 'session';
  } finally {
    await Promise.all([firstClient, secondClient].map((client) => client.end().catch(() => undefined)));
  }
}

/** Whether the server receives start-up parameters. PgBouncer refuses or drops them. */
async function keepsStartUpParameters(open: Connect): Promise<boolean> {
  const client = await open({ statement_timeout: UNUSUAL_TIMEOUT_MS }).catch(() => undefined);
  if (!client) return false;
  try {
    const { rows } = await client.query<{ kept: string }>(
      `SELECT current_setting('statement_timeout') AS kept`,
    );
    return rows[0]?.kept === `${UNUSUAL_TIMEOUT_MS}ms`;
  } finally {
    await client.end();
  }
}

async function openTwo(open: Connect): Promise<readonly [pg.Client, pg.Client]> {
  const firstClient = await open();
  try {
    return [firstClient, await open()];
  } catch (error) {
    await firstClient.end();
    throw error;
  }
}

async function backendOf(client: pg.Client): Promise<number | undefined> {
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  return rows[0]?.pid;
}

/** The process id that the server sent when the connection was opened. pg's types do not declare it. */
function announcedBackend(client: pg.Client & { readonly processID?: number | null }): number | undefined {
  return client.processID ?? undefined;
}
