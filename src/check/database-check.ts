import { isIP } from 'node:net';
import { TLSSocket } from 'node:tls';
import type pg from 'pg';
import type { DatabaseSettings, Settings } from '../config/settings.js';
import { sqlState } from '../database/database-failure.js';
import { DATABASE_CLOCK, judgeClock, readDatabaseClock } from './clock.js';
import { checkAddress, checkDirectAddress } from './database-address.js';
import { connect, connectionAdvice } from './database-connection.js';
import { checkMigrations } from './database-migrations.js';
import { checkRights } from './database-rights.js';
import { type Finding, ok, skipped, warning, wrong } from './finding.js';
import {
  checkMainTables,
  checkRevokedTokens,
  checkSwitchedOffUsers,
  checkTextSessions,
} from './main-tables.js';

/**
 * Checks the database with connections like those of the service. Writes nothing.
 *
 * @param main what the settings say of the main application's tables
 */
export async function* checkDatabase(
  settings: DatabaseSettings,
  { usersActiveColumn, textSessions }: Pick<Settings, 'usersActiveColumn' | 'textSessions'>,
): AsyncGenerator<Finding> {
  let client: pg.Client;
  try {
    client = await connect(settings);
  } catch (error) {
    yield wrong('database', connectionAdvice(error));
    yield skipped('rest of the database', 'can not be asked');
    return;
  }
  try {
    yield await attempt('database', () => checkWritable(client));
    yield checkTls(client, settings);
    yield await attempt('database address', () =>
      checkAddress(settings, (startUp) => connect(settings, startUp)),
    );
    yield* checkDirectUrl(settings);
    yield await attempt('database clock', () => checkClock(client));
    yield await attempt('main tables', () => checkMainTables(client, textSessions));
    yield await attempt('database migrations', () => checkMigrations(client, settings));
    yield await attempt('database rights', () => checkRights(client, textSessions));
    yield await attempt('text sessions', () => checkTextSessions(client, textSessions));
    yield await attempt('revoked tokens', () => checkRevokedTokens(client));
    yield await attempt('switched-off users', () => checkSwitchedOffUsers(client, usersActiveColumn));
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function checkWritable(client: pg.Client): Promise<Finding> {
  const { rows } = await client.query<{ writable: boolean }>(
    `SELECT NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off' AS writable`,
  );
  return rows[0]?.writable
    ? ok('database', 'answers, and can be written to')
    : wrong('database', 'a standby or read-only: write the address of the primary in DATABASE_URL');
}

function checkTls({ connection }: pg.Client, { url }: DatabaseSettings): Finding {
  const name = 'database TLS';
  const { stream } = connection as pg.Connection & { readonly stream: unknown };
  if (stream instanceof TLSSocket) return ok(name, 'the connection is encrypted');
  return isThisMachine(new URL(url).hostname)
    ? ok(name, 'not used, and not needed: the database is on this machine')
    : warning(name, 'the connection is not encrypted: add ?sslmode=require to DATABASE_URL');
}

async function* checkDirectUrl(settings: DatabaseSettings): AsyncGenerator<Finding> {
  const { directUrl } = settings;
  if (directUrl === undefined) return;
  const open = (): Promise<pg.Client> => connect({ ...settings, url: directUrl });
  const reached = await open().then(
    (client) => client.end(),
    (error: unknown) =>
      wrong(
        'database direct address',
        connectionAdvice(error).replaceAll('DATABASE_URL', 'DATABASE_DIRECT_URL'),
      ),
  );
  yield reached ?? (await attempt('database direct address', () => checkDirectAddress(open)));
}

async function checkClock(client: pg.Client): Promise<Finding> {
  const reading = await readDatabaseClock(async () => {
    const { rows } = await client.query<{ now: string }>(DATABASE_CLOCK);
    return Number(rows[0]?.now);
  });
  return judgeClock('database clock', 'the database', reading);
}

/** A failed check becomes a finding. The other checks still run. */
async function attempt(name: string, check: () => Promise<Finding>): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    return wrong(
      name,
      `could not be looked at (${sqlState(error) ?? 'no answer'}): ${connectionAdvice(error)}`,
    );
  }
}

function isThisMachine(hostname: string): boolean {
  const host = hostname.replace(/^\[|\]$/g, '');
  return (
    host === '' || host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
  );
}
