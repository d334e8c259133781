import { isNativeError } from 'node:util/types';
import { StorageUnavailableError } from '../storage/storage-errors.js';
import { storageAdvice } from '../storage/storage-failure.js';

/** The form of a storage's error names. Any other text may hold more than a name. */
const ERROR_NAME = /^[A-Za-z][\w.]{0,63}$/;

/** The description of an error in the log. */
export type FailureDescription = {
  /** The error and its causes. */
  readonly causes: readonly {
    readonly name: string;
    readonly code?: unknown;
    readonly at: readonly string[];
  }[];
  readonly storage?: string;
  readonly advice?: string;
  /** The HTTP status of the storage's response, where there was one. */
  readonly storageStatus?: number | undefined;
  /** The error's name by the storage or the system, such as `SignatureDoesNotMatch` or `ECONNREFUSED`. */
  readonly storageError?: string | undefined;
};

/**
 * Describes a failure for the log, by names, codes, statuses and places in the code. Messages of a database or a storage are
 * left out: they can hold values, keys and addresses.
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
