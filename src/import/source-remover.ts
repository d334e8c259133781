import { Inject, Injectable } from '@nestjs/common';
import pLimit from 'p-limit';
import { DataSource } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { type ImportedFile, ImportRecord } from './import-record.js';
import { type ImportSource, MAX_SOURCE_BYTES, SourceFileError } from './import-source.js';

export type RemovalOptions = {
  /** Only closes the files to the public. */
  readonly makePrivate: boolean;
  /** How long ago a picture must have been stored. */
  readonly graceSeconds: number;
  readonly limit: number;
  readonly concurrency: number;
};

/** The result for a file in the source. A result with `kept` leaves it as it is. */
export type Removal =
  | 'deleted'
  | 'closed'
  | 'nothing was kept'
  | 'kept: its image was deleted here'
  | 'kept: the storage has not what was stored'
  | 'kept: it has changed since the import'
  | 'kept: it can not be read'
  | 'gone already';

/** Deletes old pictures from their source: only what is stored here, and verified once more at that moment. */
@Injectable()
export class SourceRemover {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /** @returns how many files would be deleted, or closed, if they pass the check */
  async count(source: ImportSource, options: RemovalOptions): Promise<number> {
    const [row] = await this.dataSource.query<{ count: number }[]>(
      `SELECT count(*) AS count FROM chat_image_imports WHERE source = $1 AND state = ANY($2)
         AND stored_at < now() - make_interval(secs => $3)`,
      [source.name, statesOf(options), options.graceSeconds],
    );
    return Math.min(options.limit, row?.count ?? 0);
  }

  /**
   * @param report called for each file
   * @throws SourceError, StorageUnavailableError: what is deleted until then is recorded
   */
  async remove(
    source: ImportSource,
    options: RemovalOptions,
    report: (file: string, removal: Removal) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const record = new ImportRecord(this.dataSource, source.name, this.settings.textSessions);
    const storedBefore = new Date((await record.now()).getTime() - options.graceSeconds * 1000);
    const limit = pLimit(options.concurrency);
    let after = '';
    for (let left = options.limit; left > 0 && !signal.aborted;) {
      const files = await record.transaction(async (run) => {
        const claimed = await record.claimImported(run, {
          after,
          limit: Math.min(options.concurrency, left),
          states: statesOf(options),
          storedBefore,
        });
        const removals = await limit.map(claimed, async (file) => {
          const removal = await this.removeFile(source, file, options);
          report(file.filePath, removal);
          return { file, removal };
        });
        const changed = (...wanted: Removal[]): readonly string[] =>
          removals.flatMap(({ file, removal }) => (wanted.includes(removal) ? [file.filePath] : []));
        await record.change(run, changed('deleted', 'nothing was kept', 'gone already'), 'deleted');
        await record.change(run, changed('closed'), 'closed');
        return claimed;
      });
      after = files.at(-1)?.filePath ?? after;
      left -= files.length;
      if (files.length === 0) return;
    }
  }

  private async removeFile(
    source: ImportSource,
    { filePath, image, original, sourceSha256 }: ImportedFile,
    { makePrivate }: RemovalOptions,
  ): Promise<Removal> {
    if (!image) return 'kept: its image was deleted here';
    // The object itself is the private picture by now.
    if (source.isTarget && original === null) return 'nothing was kept';
    if (image.sha256Stored === null || (await this.storage.digest(filePath)) !== image.sha256Stored)
      return 'kept: the storage has not what was stored';
    try {
      const file = await source.read(filePath, MAX_SOURCE_BYTES, original);
      if (!file) return 'gone already';
      if (![sourceSha256, image.sha256Stored].includes(file.sha256))
        return 'kept: it has changed since the import';
      // In a bucket with versions, a deletion without the version's name would keep the public version.
      const place = original ?? (file.versionId === undefined ? null : `version ${file.versionId}`);
      await (makePrivate ? source.close(filePath, place) : source.delete(filePath, place));
      return makePrivate ? 'closed' : 'deleted';
    } catch (error) {
      if (error instanceof SourceFileError) return 'kept: it can not be read';
      throw error;
    }
  }
}

function statesOf({ makePrivate }: RemovalOptions): readonly ('stored' | 'closed')[] {
  return makePrivate ? ['stored'] : ['stored', 'closed'];
}
