import { SettingsError } from '../config/settings.js';

/** A mistake of the person at the command line: its message says what to do, a stack would not help. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const UNREACHABLE =
  'The database does not answer: check the host and port in DATABASE_URL, and that it is running.';

/** By the code of the system or of PostgreSQL. */
const DATABASE_HINTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: UNREACHABLE,
  ENOTFOUND: UNREACHABLE,
  EAI_AGAIN: UNREACHABLE,
  ETIMEDOUT: UNREACHABLE,
  '28P01': 'The database refuses the user or password in DATABASE_URL.',
  '28000': 'The database refuses the user in DATABASE_URL.',
  '3D000': 'There is no such database: check the name at the end of DATABASE_URL.',
};

/** Runs a command to its end and exits: with 0, or with 1 after saying what went wrong on standard error. */
export async function runCommand(command: () => Promise<void>): Promise<never> {
  try {
    await command();
    process.exit(0);
  } catch (error) {
    process.stderr.write(`${describe(error)}\n`);
    process.exit(1);
  }
}

function describe(error: unknown): string {
  if (error instanceof SettingsError || error instanceof UsageError) return error.message;
  if (error instanceof Error && 'code' in error) {
    if (error.code === 'EADDRINUSE') {
      return `Port ${'port' in error ? String(error.port) : ''} is in use: stop what listens there, or set PORT to another.`;
    }
    const hint = DATABASE_HINTS[String(error.code)];
    if (hint !== undefined) return hint;
  }
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
