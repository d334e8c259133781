import type { FailedAnswer, StorageFailure } from './storage-failure.js';

/** The storage is down, refuses the service's credentials, or is slow past its limit: `failure` tells which. */
export class StorageUnavailableError extends Error {
  override readonly name = 'StorageUnavailableError';
  /** The storage's response, where there was one. */
  readonly answer: FailedAnswer | undefined;

  constructor(
    message: string,
    readonly failure: StorageFailure,
    { answer, ...options }: ErrorOptions & { readonly answer?: FailedAnswer } = {},
  ) {
    super(message, options);
    this.answer = answer;
  }
}

/** There is no object with this key. */
export class ObjectNotFoundError extends Error {
  override readonly name = 'ObjectNotFoundError';
}

/** There is an object with this key already. */
export class ObjectExistsError extends Error {
  override readonly name = 'ObjectExistsError';
}

/** The text can't be the key of an object. */
export class InvalidStorageKeyError extends Error {
  override readonly name = 'InvalidStorageKeyError';
}
