/** The role of DATABASE_URL has no right to read the main application's table `user_sessions`. */
export class UnreadableSessionsError extends Error {
  override readonly name = 'UnreadableSessionsError';
}
