import { randomUUID } from 'node:crypto';
import type { Dirent, Stats } from 'node:fs';
import { constants } from 'node:fs';
import { chmod, lstat, mkdir, open, opendir, realpath, rename, rm, stat } from 'node:fs/promises';
import { LRUCache } from 'lru-cache';
import { basename, dirname, join, resolve } from 'node:path';
import { STORAGE_FOLDER } from '../chat-images/entities/chat-image-path.js';
import { systemCode } from '../errors/system-code.js';
import { type BytePieces, writePieces } from '../storage/byte-pieces.js';
import {
  ImportSource,
  type ListedFile,
  SourceError,
  SourceFile,
  SourceFileError,
  tooLarge,
} from './import-source.js';
import { kindOfUnknown, parseOldPicture } from './old-picture.js';

const CONVERSATION_FOLDER = /^(appointment|text_session)_\d+$/;

/** How long a folder counts as checked. A folder holds the pictures of one chat, which are read one after the other. */
const REMEMBERED_MS = 1000;

/** Bytes of one read. A file of the usual size is read at once. */
const READ_BYTES = 1024 * 1024;

/** The rights of a file in a public folder: its web server reads it as another user. */
const PUBLIC_MODE = 0o644;
const PRIVATE_MODE = 0o600;

/** A public folder of the previous backend, such as `storage/app/public`. */
export class FolderSource extends ImportSource {
  /** Folders that were no symbolic links a moment ago. */
  private readonly plainFolders = new LRUCache<string, true>({ max: 1000, ttl: REMEMBERED_MS });

  private constructor(private readonly root: string) {
    super(root, false);
  }

  /** @param path the folder that holds `chat_images`, or `chat_images` itself */
  static async of(path: string): Promise<FolderSource> {
    const folder = resolve(path);
    const root =
      basename(folder) === STORAGE_FOLDER && !(await isFolder(join(folder, STORAGE_FOLDER)))
        ? dirname(folder)
        : folder;
    const real = await realpath(root).catch(() => root);
    if (real.length > 255) throw new SourceError('The path of the folder is longer than 255 characters.');
    return new FolderSource(real);
  }

  override async open(): Promise<void> {
    if (!(await isFolder(join(this.root, STORAGE_FOLDER))))
      throw new SourceError(
        `${this.root} has no folder ${STORAGE_FOLDER}: name the folder that holds it, such as storage/app/public.`,
      );
  }

  override async *list(): AsyncGenerator<ListedFile> {
    for await (const entry of await opendir(this.root)) {
      if (entry.name === STORAGE_FOLDER) yield* this.listPictures();
      else
        yield {
          path: entry.isDirectory() ? `${entry.name}/` : entry.name,
          unknown: 'folder of something else',
        };
    }
  }

  override async read(filePath: string, maxBytes: number): Promise<SourceFile | undefined> {
    try {
      await this.refuseLinks(filePath);
      // O_NONBLOCK: opening a named pipe must not wait for its writer.
      const file = await open(
        join(this.root, filePath),
        constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      );
      try {
        const before = await file.stat();
        if (!before.isFile()) throw new SourceFileError('It is no regular file.');
        if (before.size > maxBytes) throw tooLarge(maxBytes);
        const pieces: Buffer[] = [];
        for (let length = 0; length < before.size;) {
          const piece = Buffer.allocUnsafe(Math.min(READ_BYTES, before.size - length));
          const { bytesRead } = await file.read(piece, 0, piece.length, null);
          if (bytesRead === 0) throw new SourceFileError('It has changed while it was read.');
          pieces.push(piece.subarray(0, bytesRead));
          length += bytesRead;
        }
        const after = await file.stat();
        if (versionOf(after) !== versionOf(before))
          throw new SourceFileError('It has changed while it was read.');
        return new SourceFile(pieces, versionOf(after));
      } finally {
        await file.close();
      }
    } catch (error) {
      if (error instanceof SourceFileError) throw error;
      const code = systemCode(error);
      if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
      if (code === 'ELOOP') throw new SourceFileError('It is a symbolic link.');
      throw new SourceFileError(`It can not be read (${code ?? 'unknown error'}).`, { cause: error });
    }
  }

  override async has(filePath: string): Promise<boolean> {
    return lstat(join(this.root, filePath)).then(
      () => true,
      () => false,
    );
  }

  override async isUnchanged(filePath: string, { version }: SourceFile): Promise<boolean> {
    try {
      return versionOf(await lstat(join(this.root, filePath))) === version;
    } catch {
      return false;
    }
  }

  override async write(
    filePath: string,
    pieces: BytePieces,
    { isPublic }: { readonly isPublic: boolean },
  ): Promise<void> {
    const path = join(this.root, filePath);
    await mkdir(dirname(path), { recursive: true });
    await this.refuseLinks(filePath);
    const temporary = join(dirname(path), `.${randomUUID()}.tmp`);
    try {
      const file = await open(temporary, 'wx', PRIVATE_MODE);
      try {
        await writePieces(file, pieces);
        await file.sync();
      } finally {
        await file.close();
      }
      if (isPublic) await chmod(temporary, PUBLIC_MODE);
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  override async delete(filePath: string): Promise<void> {
    await this.refuseLinks(filePath);
    await rm(join(this.root, filePath), { force: true });
  }

  override close(): Promise<void> {
    return Promise.reject(
      new SourceError('--make-private is for buckets. Close the folder by the rights of the web server.'),
    );
  }

  override end(): void {
    // There are no connections.
  }

  private async *listPictures(): AsyncGenerator<ListedFile> {
    for await (const folder of await opendir(join(this.root, STORAGE_FOLDER))) {
      const path = `${STORAGE_FOLDER}/${folder.name}`;
      if (!folder.isDirectory() || !CONVERSATION_FOLDER.test(folder.name)) {
        yield { path: folder.isDirectory() ? `${path}/` : path, unknown: kindOf(folder, path) };
        continue;
      }
      for await (const entry of await opendir(join(this.root, path))) {
        const filePath = `${path}/${entry.name}`;
        const picture = entry.isFile() ? parseOldPicture(filePath) : undefined;
        yield (
          picture ?? {
            path: entry.isDirectory() ? `${filePath}/` : filePath,
            unknown: kindOf(entry, filePath),
          }
        );
      }
    }
  }

  /**
   * The folders above a file must be folders: a symbolic link could lead out of the source.
   *
   * @throws SourceFileError
   */
  private async refuseLinks(filePath: string): Promise<void> {
    const folder = dirname(join(this.root, filePath));
    if (this.plainFolders.has(folder)) return;
    if ((await realpath(folder)) !== folder) throw new SourceFileError('Its folder is a symbolic link.');
    this.plainFolders.set(folder, true);
  }
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}

function kindOf(entry: Dirent, path: string): ReturnType<typeof kindOfUnknown> {
  if (entry.isSymbolicLink()) return 'symbolic link';
  if (entry.isFile() || (entry.isDirectory() && path.split('/').length < 3)) return kindOfUnknown(path);
  return 'no file';
}

/** Size, time and inode: a file that was replaced has another inode. */
function versionOf({ size, mtimeMs, ino }: Stats): string {
  return `${size} ${mtimeMs} ${ino}`;
}
