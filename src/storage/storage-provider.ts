import type { Readable } from 'node:stream';
import type { BytePieces } from './byte-pieces.js';

/** What a storage keeps beside an object's bytes. */
export type ObjectProperties = {
  /** The media type that a reader of a signed URL is told. */
  readonly contentType: string;
};

/** What a writer tells of an object. */
export type NewObject = ObjectProperties & {
  /** Digests of the bytes, in hexadecimal, where they are known: a driver that needs them does not take them again. */
  readonly sha256?: string;
  readonly md5?: string | undefined;
};

export type StoredObject = ObjectProperties & {
  /** Bytes. */
  readonly size: number;
};

export type ListedObject = {
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  readonly lastModified: Date;
};

/** A URL that reads one object without further credentials until it expires. */
export type SignedUrl = {
  readonly url: string;
  /** Seconds from the moment of signing for which `url` works. */
  readonly expiresIn: number;
  /** The moment at which `url` stops working, on a whole second. */
  readonly expiresAt: Date;
};

/**
 * Where the bytes of the pictures are. The abstract class is the DI token; a driver extends it.
 *
 * Every driver guarantees: an object is private, readable only through the service's own credentials or a URL from
 * {@link signedUrl}; `put` is atomic (a reader sees the old object, or the whole new one) and durable when it
 * resolves; keys are those that `assertStorageKey` lets through, and mean the same object on every driver; calls
 * end within bounded time. All methods reject with `StorageUnavailableError` when the storage is down or slow past
 * its limit, and with `InvalidStorageKeyError` for a key that can't be one.
 */
export abstract class StorageProvider {
  /** Writes an object, replacing one with the same key. */
  abstract put(key: string, pieces: BytePieces, object: NewObject): Promise<void>;

  /** Tells what is stored under a key, or `undefined` where nothing is. */
  abstract head(key: string): Promise<StoredObject | undefined>;

  /**
   * Streams an object's bytes back.
   *
   * @throws ObjectNotFoundError where there is no such object
   */
  abstract get(key: string): Promise<Readable>;

  /** Removes an object. Removing one that is not there is no error. */
  abstract delete(key: string): Promise<void>;

  /**
   * Makes a URL that reads the object until it expires, without asking the storage. The object need not exist.
   *
   * @param expiresIn seconds from `signedAt`, rounded down to a whole second, from 1 to 604800
   * @param signedAt the moment that counts as now
   */
  abstract signedUrl(key: string, expiresIn: number, signedAt: Date): Promise<SignedUrl>;

  /**
   * Tells of every object whose key starts with `prefix`, which ends in a slash, in ascending order of the keys' UTF-8
   * bytes.
   */
  abstract list(prefix: string): AsyncIterable<ListedObject>;

  /**
   * Resolves when the storage answers, takes the service's credentials, and the bucket is there; for readiness and the
   * start. Otherwise the error tells the mistakes of a configuration apart.
   */
  abstract ping(signal: AbortSignal): Promise<void>;
}
