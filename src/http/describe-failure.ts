import { isNativeError } from 'node:util/types';
import { StorageUnavailableError } from '../storage/storage-errors.js';
import { storageAdvice } from '../storage/storage-failure.js';

/** A storage names its errors so; anything else in that place may hold more than a name. */
const ERROR_NAME = /^[A-Za-z][\w.]{0,63}$/;

/** What the log tells of an error. */
export type FailureDescription = {
  /** The error, and what it was made of. */
  readonly causes: readonly {
    readonly name: string;
    readonly code?: unknown;
    readonly at: readonly string[];
  }[];
  readonly storage?: string;
  readonly advice?: string;
  /** The HTTP status of the storage's answer; none where it gave none. */
  readonly storageStatus?: number | undefined;
  /** The storage's own name of its error, or the system's, such as `SignatureDoesNotMatch` or `ECONNREFUSED`. */
  readonly storageError?: string | undefined;
};

/**
 * Describes a failure for the log. Only names, codes, statuses and the stack's places: messages of a database or a storage
 * can hold values, keys and addresses.
 */
export function describeFailure(failure: unknown): FailureDescription {
  const causes: FailureDescription['causes'][number][] = [];
  for (let error = failure; isNativeError(error) && causes.length < 5; error = error.cause) {
    causes.push({
      name: error.name,
      ...('code' in error ? { code: error.code } : {}),
      at: (error.stack ?? '')
        .split('\n')
        .filter((line) => /^\s+at /.test(line))
        .map((line) => line.trim()),
    });
  }
  if (!(failure instanceof StorageUnavailableError)) return { causes };
  const { failure: storage, answer } = failure;
  const { status, code = '' } = answer ?? {};
  return {
    storage,
    advice: storageAdvice(storage),
    storageStatus: status,
    storageError: ERROR_NAME.test(code) ? code : undefined,
    causes,
  };
}
