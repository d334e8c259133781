/** The storage is down, refuses the service's credentials, or is slow past its limit. */
export class StorageUnavailableError extends Error {
  override readonly name = 'StorageUnavailableError';
}

/** There is no object with this key. */
export class ObjectNotFoundError extends Error {
  override readonly name = 'ObjectNotFoundError';
}

/** The text can't be the key of an object. */
export class InvalidStorageKeyError extends Error {
  override readonly name = 'InvalidStorageKeyError';
}
