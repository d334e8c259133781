import { InvalidStorageKeyError } from './storage-errors.js';

/** The limits in bytes of S3 for a key, and of common file systems for a name, with room for a suffix. */
const MAX_KEY_BYTES = 1024;
const MAX_SEGMENT_BYTES = 240;

/** The form of this service's own keys. Every key of this form is valid. */
const PLAIN_KEY = /^(?:\w[\w.-]{0,200}\/){0,4}\w[\w.-]{0,200}$/;

const CONTROL_CHARACTERS = /\p{Cc}/u;

/**
 * Refuses a text that can't be a key.
 *
 * @throws InvalidStorageKeyError
 */
export function assertStorageKey(key: string): void {
  if (!isStorageKey(key)) throw new InvalidStorageKeyError('The text can not be the key of an object.');
}

/**
 * Whether a text means one object, the same on every driver, and never leaves the local driver's folder: not one that is
 * empty or too long, that has an empty, `.` or `..` segment, a backslash, a control character or a lone surrogate.
 */
export function isStorageKey(key: string): boolean {
  if (PLAIN_KEY.test(key)) return true;
  const segments = key.split('/');
  return (
    Buffer.byteLength(key) <= MAX_KEY_BYTES &&
    key.isWellFormed() &&
    !key.includes('\\') &&
    !CONTROL_CHARACTERS.test(key) &&
    segments.every(
      (segment) =>
        segment !== '' &&
        segment !== '.' &&
        segment !== '..' &&
        Buffer.byteLength(segment) <= MAX_SEGMENT_BYTES,
    )
  );
}
