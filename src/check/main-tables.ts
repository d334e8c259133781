import type pg from 'pg';
import {
  activeColumnMistake,
  deletedAtMistake,
  FIND_USER_COLUMNS,
  type UserColumn,
} from '../conversations/user-columns.js';
import { type Finding, ok, skipped, warning, wrong } from './finding.js';

/**
 * The columns of the main application's tables that the service reads.
 *
 * @param textSessions TEXT_SESSIONS
 */
export function readColumns(textSessions: boolean): readonly { table: string; column: string }[] {
  const conversations = textSessions ? ['appointments', 'text_sessions'] : ['appointments'];
  return [
    { table: 'users', column: 'id' },
    ...conversations.flatMap((table) =>
      ['id', 'patient_id', 'doctor_id'].map((column) => ({ table, column })),
    ),
  ];
}

const WHOLE_NUMBERS = /^(smallint|integer|bigint)$/;

/** Checks that the main application's tables have the columns that the service reads. */
export async function checkMainTables(client: pg.Client, textSessions: boolean): Promise<Finding> {
  const columns = readColumns(textSessions);
  const { rows } = await client.query<{ place: string; type: string | null }>(
    `SELECT relation || '.' || name AS place, format_type(atttypid, NULL) AS type
     FROM unnest($1::text[], $2::text[]) AS wanted (relation, name)
     LEFT JOIN pg_attribute ON attrelid = to_regclass(relation) AND attname = name AND NOT attisdropped`,
    [columns.map(({ table }) => table), columns.map(({ column }) => column)],
  );
  const problems = rows.flatMap(({ place, type }) => {
    if (type === null) return [`${place} is missing`];
    return WHOLE_NUMBERS.test(type) ? [] : [`${place} is ${type}, not a whole number`];
  });
  const name = 'main tables';
  return problems.length > 0
    ? wrong(
        name,
        `${problems.join('; ')}: does DATABASE_URL lead to the database, and the schema, of the main application?`,
      )
    : ok(
        name,
        `${textSessions ? 'users, appointments and text_sessions' : 'users and appointments'} have the columns that are read`,
      );
}

/** Checks that the rows of `chat_images` go with their text session. The migration can't always make the foreign key. */
export async function checkTextSessions(client: pg.Client, textSessions: boolean): Promise<Finding> {
  const name = 'text sessions';
  if (!textSessions) return skipped(name, 'TEXT_SESSIONS is off');
  const { rows } = await client.query(
    `SELECT FROM pg_constraint WHERE conrelid = to_regclass('chat_images') AND contype = 'f'
       AND confrelid = to_regclass('text_sessions') AND confdeltype = 'c'`,
  );
  return rows.length > 0
    ? ok(name, 'the pictures of a deleted text session are deleted with it')
    : wrong(
        name,
        'pictures of deleted text sessions would stay: run, as the role that migrates, ' +
          'ALTER TABLE chat_images ADD CONSTRAINT chat_images_text_session_id_foreign ' +
          'FOREIGN KEY (text_session_id) REFERENCES text_sessions (id) ON DELETE CASCADE; ' +
          'before, as the owner of text_sessions, GRANT REFERENCES (id) ON text_sessions to that role',
      );
}

/** Checks that switched-off and deleted users of the main application can be recognized. */
export async function checkSwitchedOffUsers(
  client: pg.Client,
  activeColumn: string | undefined,
): Promise<Finding> {
  const name = 'switched-off users';
  const { rows } = await client.query<UserColumn>(FIND_USER_COLUMNS.text, [activeColumn ?? null]);
  const mistakes = [activeColumnMistake(rows, activeColumn), deletedAtMistake(rows)].filter(
    (mistake) => mistake !== undefined,
  );
  if (mistakes.length > 0) return wrong(name, mistakes.join('; '));
  return rows.length > 0
    ? ok(name, `are refused by users.${rows.map((column) => column.name).join(' and users.')}`)
    : skipped(name, 'users has no column deleted_at, and USERS_ACTIVE_COLUMN names none');
}

/** Checks that revoked tokens can be looked up in the main application's table, with an index. */
export async function checkRevokedTokens(client: pg.Client): Promise<Finding> {
  const name = 'revoked tokens';
  const { rows } = await client.query<{
    found: boolean;
    readable: boolean | null;
    columns: string[];
    indexed: boolean;
  }>(
    `SELECT sessions IS NOT NULL AS found,
       (SELECT bool_and(has_column_privilege(attrelid, attnum, 'SELECT')) FROM pg_attribute
        WHERE attrelid = sessions AND attname IN ('jti', 'revoked_at') AND NOT attisdropped) AS readable,
       ARRAY(
         SELECT attname::text FROM pg_attribute
         WHERE attrelid = sessions AND attname IN ('jti', 'revoked_at') AND NOT attisdropped
       ) AS columns,
       EXISTS (
         SELECT FROM pg_index
         JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
         WHERE indrelid = sessions AND attname = 'jti' AND indisvalid AND indpred IS NULL
       ) AS indexed
     FROM to_regclass('user_sessions') AS sessions`,
  );
  const [sessions] = rows;
  if (!sessions?.found) return skipped(name, 'there is no table user_sessions, so none are looked up');
  if (sessions.columns.length < 2) return wrong(name, 'user_sessions lacks the columns jti or revoked_at');
  if (!sessions.readable) {
    return wrong(
      name,
      'the role in DATABASE_URL may not read user_sessions: grant it SELECT (jti, revoked_at) on it',
    );
  }
  return sessions.indexed
    ? ok(name, 'user_sessions can be read, and has an index on jti')
    : warning(
        name,
        'user_sessions has no index that begins with jti: make one, or every look-up reads it all',
      );
}
