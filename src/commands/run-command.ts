import { UnreadableSessionsError } from '../auth/unreadable-sessions-error.js';
import { StorageUnavailableError } from '../storage/storage-errors.js';
import { storageAdvice } from '../storage/storage-failure.js';
import { SettingsError } from '../config/settings.js';
import { connectionHint } from '../database/connection-hints.js';
import { SourceError } from '../import/import-source.js';
import { UnusableTableError } from '../conversations/user-columns.js';

/** A mistake in the use of a command. Printed without stack: the message says what to do. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** A command has done its work, but not everything is as it should be: exit code 2. */
export class IncompleteError extends Error {
  override readonly name = 'IncompleteError';
}

/** Runs a command and exits: with 0, or with 1 or 2 after writing the error to standard error. */
export async function runCommand(command: () => Promise<void>): Promise<never> {
  // On Node 20, the AWS SDK prints seven lines about its end of support in 2027. Only this variable switches them off.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  try {
    await command();
    process.exit(0);
  } catch (error) {
    process.stderr.write(`${describe(error)}\n`);
    process.exit(error instanceof IncompleteError ? 2 : 1);
  }
}

function describe(error: unknown): string {
  if (
    error instanceof SettingsError ||
    error instanceof UsageError ||
    error instanceof IncompleteError ||
    error instanceof SourceError ||
    error instanceof UnreadableSessionsError ||
    error instanceof UnusableTableError
  )
    return error.message;
  if (error instanceof Error && 'code' in error && error.code === 'EADDRINUSE') {
    return `Port ${'port' in error ? String(error.port) : ''} is in use: stop what listens there, or set PORT to another.`;
  }
  if (error instanceof StorageUnavailableError) return `${storageAdvice(error.failure)}.`;
  const hint = connectionHint(error);
  if (hint !== undefined) return hint;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
