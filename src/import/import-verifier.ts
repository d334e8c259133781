import { Inject, Injectable } from '@nestjs/common';
import pLimit from 'p-limit';
import { DataSource } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { isDone, pagesOf } from './image-importer.js';
import { type ImportedFile, ImportRecord } from './import-record.js';
import { type ImportSource, MAX_SOURCE_BYTES, SourceFileError } from './import-source.js';

/** The result of comparing a picture. */
export type Comparison =
  | 'the same in both'
  | 'only here: the source is deleted'
  | 'only here: the file is gone from the source'
  | 'new in the source since the import'
  | 'not imported: waits'
  | 'not imported: failed'
  | 'changed in the source since the import'
  | 'deleted here since the import'
  | 'missing in the storage'
  | 'changed in the storage'
  | 'open to everybody';

/** Results that need a person. All others are as they should be. */
export const NEEDS_ATTENTION: ReadonlySet<Comparison> = new Set([
  'new in the source since the import',
  'not imported: waits',
  'not imported: failed',
  'changed in the source since the import',
  'missing in the storage',
  'changed in the storage',
  'open to everybody',
]);

const PAGE = 200;
const TIMEOUT_MS = 10_000;

/** Compares a source with what was imported from it, in both directions. Changes nothing. */
@Injectable()
export class ImportVerifier {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * @param report called for each picture
   * @throws SourceError, StorageUnavailableError
   */
  async compare(
    source: ImportSource,
    concurrency: number,
    report: (file: string, comparison: Comparison) => void,
  ): Promise<void> {
    const record = new ImportRecord(this.dataSource, source.name, this.settings.textSessions);
    // From the source to here: what has come since.
    for await (const page of pagesOf(source.list())) {
      const paths = page.flatMap((file) => ('unknown' in file ? [] : [file.filePath]));
      const own = source.isTarget ? await record.ownObjects(paths) : new Set();
      const states = await record.states(paths);
      for (const path of paths) {
        const state = states.get(path);
        if (own.has(path) || isDone(state)) continue;
        if (state === undefined) report(path, 'new in the source since the import');
        else report(path, state === 'failed' ? 'not imported: failed' : 'not imported: waits');
      }
    }
    // From here to the source: each picture by its digests.
    const limit = pLimit(concurrency);
    for (let after = ''; ;) {
      const states = ['stored', 'closed', 'deleted', 'returned'] as const;
      const files = await record.readImported({ after, limit: PAGE, states });
      if (files.length === 0) return;
      await limit.map(files, async (file) => report(file.filePath, await this.compareFile(source, file)));
      after = files.at(-1)?.filePath ?? after;
    }
  }

  private async compareFile(source: ImportSource, file: ImportedFile): Promise<Comparison> {
    const { filePath, image, state, original, sourceSha256 } = file;
    if (!image) return 'deleted here since the import';
    const digest = await this.storage.digest(filePath);
    if (digest === undefined) return 'missing in the storage';
    if (state !== 'returned' && digest !== image.sha256Stored) return 'changed in the storage';
    if (state !== 'returned' && (await this.isOpen(filePath))) return 'open to everybody';
    if (state === 'deleted' || (source.isTarget && original === null))
      return state === 'deleted' ? 'only here: the source is deleted' : 'the same in both';
    try {
      const old = await source.read(filePath, MAX_SOURCE_BYTES, original);
      if (!old) return 'only here: the file is gone from the source';
      // What a rollback has written is the picture as it is here.
      return [sourceSha256, image.sha256Stored].includes(old.sha256)
        ? 'the same in both'
        : 'changed in the source since the import';
    } catch (error) {
      if (error instanceof SourceFileError) return 'changed in the source since the import';
      throw error;
    }
  }

  /** Whether anybody gets the object, without credentials. A bucket that can't be asked is not open. */
  private async isOpen(filePath: string): Promise<boolean> {
    const { storage } = this.settings;
    if (storage.driver !== 's3') return false;
    const answer = await fetch(`${storage.publicUrl}/${filePath}`, {
      method: 'HEAD',
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    }).catch(() => undefined);
    return answer?.ok === true;
  }
}
