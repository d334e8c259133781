import { createHash } from 'node:crypto';
import type { BytePieces } from '../storage/byte-pieces.js';
import type { OldPicture, UnknownFile } from './old-picture.js';

/** What a source lists: a picture, or a file or folder that is none. */
export type ListedFile = OldPicture | { readonly path: string; readonly unknown: UnknownFile };

/** The bytes of a file, and what tells whether it has changed since. */
export class SourceFile {
  private digest: string | undefined;

  /**
   * @param version changes with the file
   * @param versionId with versions of objects: the name of this one
   */
  constructor(
    readonly pieces: BytePieces,
    readonly version: string,
    readonly versionId?: string,
  ) {}

  /** SHA-256 of the bytes, in hexadecimal. */
  get sha256(): string {
    this.digest ??= this.pieces
      .reduce((hash, piece) => hash.update(piece), createHash('sha256'))
      .digest('hex');
    return this.digest;
  }
}

/** The most bytes of a picture. An upload has a smaller limit, which `--lenient` lifts. */
export const MAX_SOURCE_BYTES = 100 * 1024 * 1024;

/** A file that can't be imported now. The message is for the report. */
export class SourceFileError extends Error {
  override readonly name = 'SourceFileError';
}

export function tooLarge(maxBytes: number): SourceFileError {
  return new SourceFileError(`It is larger than ${Math.round(maxBytes / 1024 / 1024)} MiB.`);
}

/** A source that can't be used at all. The message says what to do. */
export class SourceError extends Error {
  override readonly name = 'SourceError';
}

/**
 * Where the old pictures are: a public folder of the previous backend, or a bucket. Everything that is not a picture of a
 * chat belongs to somebody else, and is only listed.
 */
export abstract class ImportSource {
  /**
   * @param name the source in the record of imports
   * @param isTarget whether the source is the bucket of this service itself, with the same keys: pictures are rewritten in place
   */
  protected constructor(
    readonly name: string,
    readonly isTarget: boolean,
  ) {}

  /** @throws SourceError when the source can't be read */
  abstract open(): Promise<void>;

  abstract list(): AsyncIterable<ListedFile>;

  /** Whether there is a file with this path. */
  abstract has(filePath: string): Promise<boolean>;

  /**
   * Reads a file.
   *
   * @param original where the original bytes of a picture that was rewritten in place are kept
   * @returns `undefined` where there is no such file
   * @throws SourceFileError when the file is larger than `maxBytes`, can't be read, or changes meanwhile
   */
  abstract read(
    filePath: string,
    maxBytes: number,
    original?: string | null,
  ): Promise<SourceFile | undefined>;

  /** Whether the file is still as it was read. */
  abstract isUnchanged(filePath: string, file: SourceFile): Promise<boolean>;

  /** Writes a file back to where it was, as a whole or not at all. */
  abstract write(
    filePath: string,
    pieces: BytePieces,
    options: { readonly contentType: string; readonly isPublic: boolean },
  ): Promise<void>;

  /** Deletes a file, or the kept original of it. */
  abstract delete(filePath: string, original?: string | null): Promise<void>;

  /**
   * Closes a file to the public, and keeps it.
   *
   * @throws SourceError where the source has no access rights of single files
   */
  abstract close(filePath: string, original?: string | null): Promise<void>;

  /** Ends the connections. */
  abstract end(): void;
}
