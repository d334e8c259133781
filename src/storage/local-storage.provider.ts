import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import type { Stats } from 'node:fs';
import { access, link, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import type { Readable } from 'node:stream';
import { isNativeError } from 'node:util/types';
import type { LocalStorageSettings } from '../config/settings.js';
import { type BytePieces, writePieces } from './byte-pieces.js';
import { systemCode } from '../errors/system-code.js';
import { ObjectExistsError, ObjectNotFoundError, StorageUnavailableError } from './storage-errors.js';
import {
  type ListedObject,
  type NewObject,
  type ObjectProperties,
  StorageProvider,
  type StoredObject,
} from './storage-provider.js';

/** The path of the route that serves the signed URLs of the local driver. */
export const LOCAL_STORAGE_PATH = '/api/local-storage';

/**
 * Objects as files of one folder, for a laptop or a single machine. The service itself serves the signed URLs; see
 * `LocalStorageController`. `objects/` holds the bytes, `properties/` what S3 would keep beside them.
 */
export class LocalStorageProvider extends StorageProvider {
  private readonly directory: string;

  /** @param appUrl the service's own public address, for which URLs are made */
  constructor(
    private readonly settings: Pick<LocalStorageSettings, 'directory' | 'secret'>,
    private readonly appUrl: string,
  ) {
    super();
    this.directory = resolve(settings.directory);
  }

  protected override async putObject(
    key: string,
    pieces: BytePieces,
    { contentType, ifAbsent = false }: NewObject,
  ): Promise<void> {
    const properties: ObjectProperties = { contentType };
    if (ifAbsent && (await this.findStats(this.objectFile(key)))) throw exists();
    await this.attempt(async () => {
      // The bytes are written last: with them the object exists.
      await this.write(this.propertiesFile(key), [Buffer.from(JSON.stringify(properties))]);
      await this.write(this.objectFile(key), pieces, ifAbsent);
    });
  }

  protected override async headObject(key: string): Promise<StoredObject | undefined> {
    try {
      return await this.find(async () => {
        const { size } = await stat(this.objectFile(key));
        const properties = JSON.parse(await readFile(this.propertiesFile(key), 'utf8')) as ObjectProperties;
        return { size, contentType: properties.contentType };
      });
    } catch (error) {
      if (error instanceof ObjectNotFoundError) return undefined;
      throw error;
    }
  }

  protected override async getObject(key: string): Promise<Readable> {
    return this.find(async () => (await open(this.objectFile(key))).createReadStream());
  }

  protected override async deleteObject(key: string): Promise<void> {
    await this.attempt(async () => {
      await rm(this.objectFile(key), { force: true });
      await rm(this.propertiesFile(key), { force: true });
    });
  }

  async *list(prefix: string): AsyncGenerator<ListedObject> {
    const root = join(this.directory, 'objects');
    const folder = join(root, prefix);
    const entries = await this.find(() => readdir(folder, { recursive: true, withFileTypes: true })).catch(
      async (error: unknown) => {
        if (!(error instanceof ObjectNotFoundError)) throw error;
        // A storage that is not mounted is not an empty storage.
        await this.attempt(() => access(this.directory));
        return [];
      },
    );
    const keys = entries
      .filter((candidate) => candidate.isFile())
      .map(({ parentPath, name }) => relative(root, join(parentPath, name)).split(sep).join('/'))
      .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    for (const key of keys) {
      // A file that was deleted since the folder was read is left out.
      const stats = await this.findStats(join(root, key));
      if (stats) yield { key, size: stats.size, lastModified: stats.mtime };
    }
  }

  protected override signUrl(key: string, expiresIn: number, signedAt: Date): Promise<string> {
    const expires = String(signedAt.getTime() / 1000 + expiresIn);
    const path = key.split('/').map(encodeURIComponent).join('/');
    const query = new URLSearchParams({ Expires: expires, Signature: this.signature(key, expires) });
    return Promise.resolve(`${this.appUrl}${LOCAL_STORAGE_PATH}/${path}?${query.toString()}`);
  }

  /**
   * Whether a URL of {@link signedUrl} is unchanged and has not expired.
   *
   * @param expires `Expires` of its query, as sent
   * @param signature `Signature` of its query, as sent
   */
  verify(key: string, expires: string, signature: string, now: Date): boolean {
    const expected = Buffer.from(this.signature(key, expires));
    const given = Buffer.from(signature);
    return (
      expected.length === given.length &&
      timingSafeEqual(expected, given) &&
      now.getTime() < Number(expires) * 1000
    );
  }

  async ping(): Promise<void> {
    await this.attempt(() => mkdir(this.directory, { recursive: true, mode: 0o700 }));
  }

  private signature(key: string, expires: string): string {
    return createHmac('sha256', this.settings.secret).update(`GET\n${key}\n${expires}`).digest('hex');
  }

  private async findStats(file: string): Promise<Stats | undefined> {
    return this.find(() => stat(file)).catch((error: unknown) => {
      if (error instanceof ObjectNotFoundError) return undefined;
      throw error;
    });
  }

  private objectFile(key: string): string {
    return join(this.directory, 'objects', key);
  }

  private propertiesFile(key: string): string {
    return join(this.directory, 'properties', `${key}.json`);
  }

  /** Writes a file. After a crash the file is complete, or it is not there. */
  private async write(file: string, pieces: BytePieces, ifAbsent = false): Promise<void> {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    const temporary = join(this.directory, `${randomUUID()}.tmp`);
    try {
      const handle = await open(temporary, 'wx', 0o600);
      try {
        await writePieces(handle, pieces);
        await handle.sync();
      } finally {
        await handle.close();
      }
      if (!ifAbsent) {
        await rename(temporary, file);
        return;
      }
      // Unlike a rename, a link never replaces a file.
      await link(temporary, file).catch((error: unknown) => {
        throw systemCode(error) === 'EEXIST' ? exists() : error;
      });
      await rm(temporary);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  /** Runs a read of a file that may not exist. */
  private find<T>(operation: () => Promise<T>): Promise<T> {
    return this.attempt(operation).catch((error: unknown) => {
      const cause = error instanceof StorageUnavailableError ? error.cause : undefined;
      if (isNativeError(cause) && 'code' in cause && (cause.code === 'ENOENT' || cause.code === 'ENOTDIR')) {
        throw new ObjectNotFoundError('There is no such object.', { cause });
      }
      throw error;
    });
  }

  private async attempt<T>(operation: () => Promise<T>): Promise<T> {
    try {
      return await operation();
    } catch (error) {
      if (error instanceof ObjectExistsError) throw error;
      throw new StorageUnavailableError('The storage folder can not be used.', 'unusable-folder', {
        cause: error,
      });
    }
  }
}

function exists(): ObjectExistsError {
  return new ObjectExistsError('There is an object with this key.');
}
