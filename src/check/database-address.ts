import type pg from 'pg';
import type { DatabaseSettings } from '../config/settings.js';
import { type Finding, ok, warning, wrong } from './finding.js';

const NAME = 'database address';

/** How often two connections are compared before a pooler counts as one that keeps sessions. */
const COMPARISONS = 3;

/** No server has it by itself. */
const UNUSUAL_TIMEOUT_MS = 54_321;

/** Opens one more connection to the address under test. */
type Connect = (startUp?: Pick<pg.ClientConfig, 'statement_timeout'>) => Promise<pg.Client>;

/** Whether an address leads to the database itself, and whether DATABASE_POOLER agrees. */
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

/** Whether DATABASE_DIRECT_URL leads to the database itself, as migrations need it. */
export async function checkDirectAddress(open: Connect): Promise<Finding> {
  const name = 'database direct address';
  return (await poolingOf(open)) === 'transaction'
    ? wrong(name, "DATABASE_DIRECT_URL is a pooler's too: write the address of the database itself")
    : ok(name, 'DATABASE_DIRECT_URL leads to the database, for npm run migrate');
}

/**
 * Tells a pooler by the process that serves a connection: the database names it when the connection is made, where a pooler
 * makes a number up. In transaction mode another process serves once the first is taken by somebody's transaction.
 */
async function poolingOf(open: Connect): Promise<'none' | 'session' | 'transaction'> {
  const [one, other] = await openTwo(open);
  try {
    const first = await backendOf(one);
    if (first === announcedBackend(one)) return 'none';
    for (let comparison = 0; comparison < COMPARISONS; comparison += 1) {
      const before = await backendOf(one);
      await other.query('BEGIN');
      await backendOf(other);
      // A pool of a single connection has none left, and the statement waits until its time is over.
      const after = await backendOf(one).catch(() => undefined);
      await other.query('ROLLBACK');
      if (after !== before) return 'transaction';
    }
    return 'session';
  } finally {
    await Promise.all([one, other].map((client) => client.end().catch(() => undefined)));
  }
}

/** Whether the server gets the parameters that a connection is opened with: PgBouncer refuses them, or drops them. */
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
  const one = await open();
  try {
    return [one, await open()];
  } catch (error) {
    await one.end();
    throw error;
  }
}

async function backendOf(client: pg.Client): Promise<number | undefined> {
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  return rows[0]?.pid;
}

/** The process that the server named when the connection was made. The types of pg leave it out. */
function announcedBackend(client: pg.Client & { readonly processID?: number | null }): number | undefined {
  return client.processID ?? undefined;
}
