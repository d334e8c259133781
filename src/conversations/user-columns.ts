import { preparedStatement } from '../database/prepared-statement.js';

/** A column of the main application's table `users` that says whether a user is deleted or switched off. */
export type UserColumn = {
  readonly name: string;
  readonly type: string;
  /** Whether the role of DATABASE_URL may read the column. */
  readonly readable: boolean;
};

/** Which rows of `users` count as users, for the statements that decide on access. */
export type UserRule = {
  /** Additional SQL condition on a row of `users`: empty, or begins with AND. */
  readonly condition: string;
  /** Suffix of the statement's name, because each SQL text needs its own name. */
  readonly suffix: string;
};

/** The rule without known columns: every row is a user. */
export const EVERY_USER: UserRule = { condition: '', suffix: '' };

/** A setting names a table or column of the main application that can't be used. */
export class UnusableTableError extends Error {
  override readonly name = 'UnusableTableError';
}

/** Laravel's soft deletes: a row with a `deleted_at` counts as deleted. */
const DELETED_AT = 'deleted_at';

const WHOLE_NUMBER = /^(smallint|integer|bigint)$/;

/** Finds the column `deleted_at` and the column with the name `$1`. */
export const FIND_USER_COLUMNS = preparedStatement(
  'find-user-columns',
  `SELECT attname AS name, format_type(atttypid, NULL) AS type, has_column_privilege(attrelid, attnum, 'SELECT') AS readable
   FROM pg_attribute
   WHERE attrelid = to_regclass('users') AND attname IN ('${DELETED_AT}', $1) AND attnum > 0 AND NOT attisdropped`,
);

/**
 * Builds the rule from the columns. A user with NULL in the active column is switched off, as in PHP.
 *
 * @param activeColumn USERS_ACTIVE_COLUMN
 */
export function userRule(columns: readonly UserColumn[], activeColumn: string | undefined): UserRule {
  const deletedAt = columns.find(({ name }) => name === DELETED_AT);
  const active = columns.find(({ name }) => name === activeColumn);
  const rules = [
    ...(deletedAt?.readable ? [[`users.${DELETED_AT} IS NULL`, 'undeleted']] : []),
    ...(active
      ? [[`users."${active.name}"${active.type === 'boolean' ? '' : ' <> 0'}`, `active-${active.type}`]]
      : []),
  ];
  return {
    condition: rules.map(([sql]) => ` AND ${sql}`).join(''),
    suffix: rules.map(([, name]) => `-${name}`).join(''),
  };
}

/** @returns why USERS_ACTIVE_COLUMN can't be used, and what to do */
export function activeColumnMistake(
  columns: readonly UserColumn[],
  activeColumn: string | undefined,
): string | undefined {
  if (activeColumn === undefined) return undefined;
  const column = columns.find(({ name }) => name === activeColumn);
  if (!column) return `USERS_ACTIVE_COLUMN names ${activeColumn}, which is no column of users`;
  if (column.type !== 'boolean' && !WHOLE_NUMBER.test(column.type))
    return `USERS_ACTIVE_COLUMN names ${activeColumn}, which is ${column.type}: it must be a boolean or a whole number`;
  return column.readable
    ? undefined
    : `USERS_ACTIVE_COLUMN names a column that can not be read: GRANT SELECT (${activeColumn}) ON users to the role of DATABASE_URL`;
}

/** @returns what to do when `users` has a column `deleted_at` that can't be read */
export function deletedAtMistake(columns: readonly UserColumn[]): string | undefined {
  return columns.some(({ name, readable }) => name === DELETED_AT && !readable)
    ? `users that are deleted by their ${DELETED_AT} are let in: GRANT SELECT (${DELETED_AT}) ON users to the role of DATABASE_URL`
    : undefined;
}
