import type { StorageFailure } from './storage-failure.js';

/** The storage is down, refuses the service's credentials, or is slow past its limit: `failure` tells which. */
export class StorageUnavailableError extends Error {
  override readonly name = 'StorageUnavailableError';

  constructor(
    message: string,
    readonly failure: StorageFailure,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** There is no object with this key. */
export class ObjectNotFoundError extends Error {
  override readonly name = 'ObjectNotFoundError';
}

/** The text can't be the key of an object. */
export class InvalidStorageKeyError extends Error {
  override readonly name = 'InvalidStorageKeyError';
}
