/** A statement that PostgreSQL parses and plans once per connection. */
export type PreparedStatement = { readonly name: string; readonly text: string };

/**
 * @param name unique; also a comment in the SQL, so that the statement can be recognized in pg_stat_activity
 * @param sql with the placeholders `$1`, `$2`, …
 */
export function preparedStatement(name: string, sql: string): PreparedStatement {
  return { name, text: `/* ${name} */ ${sql}` };
}
