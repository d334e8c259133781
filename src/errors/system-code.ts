import { isNativeError } from 'node:util/types';

/** The code of a failed connection, such as `ECONNREFUSED`, also where another error was made of it. */
export function systemCode(error: unknown): string | undefined {
  for (let cause = error, depth = 0; isNativeError(cause) && depth < 5; cause = cause.cause, depth += 1) {
    if ('code' in cause && typeof cause.code === 'string') return cause.code;
  }
  return undefined;
}
