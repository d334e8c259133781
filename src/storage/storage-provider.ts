import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { BytePieces } from './byte-pieces.js';
import { ObjectNotFoundError } from './storage-errors.js';
import { assertStorageKey } from './storage-key.js';

/** What a storage keeps beside an object's bytes. */
export type ObjectProperties = {
  /** The media type that a reader of a signed URL is told. */
  readonly contentType: string;
};

/** What a writer tells of an object. */
export type NewObject = ObjectProperties & {
  /** SHA-256 of the bytes, in hexadecimal, where it is known: a driver that needs it does not take it again. */
  readonly sha256?: string;
  /** Refuses to replace an object that is there. */
  readonly ifAbsent?: boolean;
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
 * The storage of the pictures' bytes. The abstract class is the DI token; a driver extends it.
 *
 * Keys are checked here, once for all drivers: a driver gets only keys that `isStorageKey` accepts, and a key means the same
 * object on every driver.
 *
 * Every driver guarantees: an object is private, readable only through the service's own credentials or a URL from
 * {@link signedUrl}. `put` is atomic (a reader gets the old object or the whole new object) and durable when it resolves.
 * Calls end within bounded time. All methods reject with `StorageUnavailableError` when the storage is down or slow past
 * its limit, and with `InvalidStorageKeyError` for a key that can't be one.
 */
export abstract class StorageProvider {
  /**
   * Writes an object, replacing an object with the same key, unless `ifAbsent` says otherwise.
   *
   * @throws ObjectExistsError with `ifAbsent`, when an object is there. An S3 server that does not know `If-None-Match` replaces it.
   */
  async put(key: string, pieces: BytePieces, object: NewObject): Promise<void> {
    assertStorageKey(key);
    await this.putObject(key, pieces, object);
  }

  /** Tells what is stored under a key, or `undefined` where nothing is. */
  async head(key: string): Promise<StoredObject | undefined> {
    assertStorageKey(key);
    return this.headObject(key);
  }

  /**
   * Streams an object's bytes back.
   *
   * @throws ObjectNotFoundError where there is no such object
   */
  async get(key: string): Promise<Readable> {
    assertStorageKey(key);
    return this.getObject(key);
  }

  /** Reads an object to its end. @returns the SHA-256 of its bytes, in hexadecimal; `undefined` where there is no such object */
  async digest(key: string): Promise<string | undefined> {
    try {
      const digest = createHash('sha256');
      for await (const chunk of await this.get(key)) digest.update(chunk as Buffer);
      return digest.digest('hex');
    } catch (error) {
      if (error instanceof ObjectNotFoundError) return undefined;
      throw error;
    }
  }

  /** Removes an object. Removing an object that is not there is no error. */
  async delete(key: string): Promise<void> {
    assertStorageKey(key);
    await this.deleteObject(key);
  }

  /**
   * Makes a URL that reads the object until the URL expires, without asking the storage. The object need not exist.
   *
   * @param expiresIn seconds from `signedAt`, rounded down to a whole second, from 1 to 604800
   * @param signedAt the moment that counts as now
   */
  async signedUrl(key: string, expiresIn: number, signedAt: Date): Promise<SignedUrl> {
    assertStorageKey(key);
    const second = Math.floor(signedAt.getTime() / 1000) * 1000;
    const url = await this.signUrl(key, expiresIn, new Date(second));
    return { url, expiresIn, expiresAt: new Date(second + expiresIn * 1000) };
  }

  /**
   * Lists every object whose key starts with `prefix`, which ends in a slash, in ascending order of the keys' UTF-8 bytes.
   * The keys are as the storage has them: other programs may have written some that this service would refuse.
   */
  abstract list(prefix: string): AsyncIterable<ListedObject>;

  /**
   * Resolves when the storage answers, accepts the service's credentials, and the bucket is there; for readiness and the
   * start. Otherwise the error tells the mistakes of a configuration apart.
   */
  abstract ping(signal: AbortSignal): Promise<void>;

  protected abstract putObject(key: string, pieces: BytePieces, object: NewObject): Promise<void>;

  protected abstract headObject(key: string): Promise<StoredObject | undefined>;

  protected abstract getObject(key: string): Promise<Readable>;

  protected abstract deleteObject(key: string): Promise<void>;

  /** @param signedAt a whole second */
  protected abstract signUrl(key: string, expiresIn: number, signedAt: Date): Promise<string>;
}
