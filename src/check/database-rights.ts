import type pg from 'pg';
import { type Finding, ok, warning, wrong } from './finding.js';
import { readColumns } from './main-tables.js';

/**
 * Minimum rights of the role in DATABASE_URL: privileges per table and per sequence. The role also reads
 * {@link readColumns} of the main application. `docs/operations.md` has the SQL. Migrations need the rights of the tables' owner.
 */
export const NEEDED_RIGHTS = {
  tables: {
    chat_images: ['SELECT', 'INSERT', 'UPDATE', 'DELETE'],
    chat_image_access: ['INSERT'],
    chat_image_imports: ['SELECT', 'INSERT', 'UPDATE'],
    chat_image_link_opens: ['SELECT', 'INSERT', 'DELETE'],
    chat_image_tombstones: ['SELECT', 'INSERT', 'UPDATE', 'DELETE'],
    chat_image_upkeep_tasks: ['SELECT', 'INSERT', 'UPDATE'],
    chat_image_upload_keys: ['SELECT', 'INSERT', 'UPDATE', 'DELETE'],
  },
  sequences: {
    chat_images_id_seq: ['USAGE'],
    chat_image_access_id_seq: ['USAGE'],
    chat_image_link_opens_id_seq: ['USAGE'],
  },
} as const satisfies Record<'tables' | 'sequences', Readonly<Record<string, readonly string[]>>>;

/** Checks that the role has all {@link NEEDED_RIGHTS}. Another check reports missing tables. */
export async function checkRights(client: pg.Client, textSessions: boolean): Promise<Finding> {
  const missing = [
    ...(await unreadableColumns(client, readColumns(textSessions))),
    ...(await missingRights(client, 'has_table_privilege', NEEDED_RIGHTS.tables)),
    ...(await missingRights(client, 'has_sequence_privilege', NEEDED_RIGHTS.sequences)),
  ];
  const name = 'database rights';
  if (missing.length > 0) {
    return wrong(name, `the role in DATABASE_URL lacks ${missing.join('; ')}: grant them to it`);
  }
  const { rows } = await client.query<{ rolsuper: boolean }>(
    'SELECT rolsuper FROM pg_roles WHERE rolname = current_user',
  );
  return rows[0]?.rolsuper
    ? warning(name, 'the role in DATABASE_URL is a superuser: a role with the rights to serve is enough')
    : ok(name, 'the role in DATABASE_URL may do what the service does');
}

/** @returns texts such as `SELECT (id) on users` */
async function unreadableColumns(
  client: pg.Client,
  wanted: ReturnType<typeof readColumns>,
): Promise<readonly string[]> {
  const { rows } = await client.query<{ missing: string }>(
    `SELECT 'SELECT (' || string_agg(attname, ', ' ORDER BY attnum) || ') on ' || attrelid::regclass AS missing
     FROM unnest($1::text[], $2::text[]) AS wanted (relation, name)
     JOIN pg_attribute ON attrelid = to_regclass(relation) AND attname = name
     WHERE NOT has_column_privilege(attrelid, attnum, 'SELECT')
     GROUP BY attrelid ORDER BY 1`,
    [wanted.map(({ table }) => table), wanted.map(({ column }) => column)],
  );
  return rows.map(({ missing }) => missing);
}

/** @returns texts such as `INSERT on chat_images` */
async function missingRights(
  client: pg.Client,
  has: 'has_table_privilege' | 'has_sequence_privilege',
  needed: Readonly<Record<string, readonly string[]>>,
): Promise<readonly string[]> {
  const wanted = Object.entries(needed).flatMap(([relation, privileges]) =>
    privileges.map((privilege) => ({ relation, privilege })),
  );
  const { rows } = await client.query<{ relation: string; privileges: string[] }>(
    `SELECT relation, array_agg(privilege ORDER BY position) AS privileges
     FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (relation, privilege, position)
     WHERE NOT ${has}(to_regclass(relation), privilege)
     GROUP BY relation ORDER BY min(position)`,
    [wanted.map(({ relation }) => relation), wanted.map(({ privilege }) => privilege)],
  );
  return rows.map(({ relation, privileges }) => `${privileges.join(', ')} on ${relation}`);
}
