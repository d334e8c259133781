import { Inject, Injectable } from '@nestjs/common';
import pLimit from 'p-limit';
import { DataSource } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { type BytePieces, lengthOf, PieceCollector } from '../storage/byte-pieces.js';
import { ObjectNotFoundError } from '../storage/storage-errors.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { type ImportedFile, ImportRecord } from './import-record.js';
import { type ImportSource, MAX_SOURCE_BYTES, SourceError, SourceFileError } from './import-source.js';

export type RollbackOptions = {
  /** Opens the pictures to the public again. */
  readonly makePublic: boolean;
  readonly concurrency: number;
};

/** The result for a picture on its way back. */
export type Return =
  | 'put back'
  | 'still there'
  | 'not put back: its image was deleted here'
  | 'not put back: the storage has lost it'
  | 'not put back: another file has its place'
  | 'not put back: its place can not be read';

/**
 * Puts imported pictures back where they were. The images, their rows and their audit trail stay here, so that nothing is lost
 * and the import can be started again.
 */
@Injectable()
export class ImportRollback {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * @param report called for each picture
   * @throws SourceError, StorageUnavailableError: the rollback can be started again
   */
  async putBack(
    source: ImportSource,
    { makePublic, concurrency }: RollbackOptions,
    report: (file: string, result: Return) => void,
    signal: AbortSignal,
  ): Promise<void> {
    if (source.isTarget && !makePublic)
      throw new SourceError(
        'The pictures were rewritten in place, so they are where they were: add --public to open them to everybody again.',
      );
    const record = new ImportRecord(this.dataSource, source.name, this.settings.textSessions);
    const limit = pLimit(concurrency);
    for (let after = ''; !signal.aborted;) {
      const files = await record.transaction(async (run) => {
        const claimed = await record.claimImported(run, {
          after,
          limit: concurrency,
          states: ['stored', 'closed', 'deleted'],
        });
        const returned = await limit.map(claimed, async (file) => {
          const [result, size] = source.isTarget
            ? await this.reopen(source, file)
            : [await this.putBackFile(source, file, makePublic)];
          report(file.filePath, result);
          return { file, size, isBack: result === 'put back' || result === 'still there' };
        });
        // The objects of this service's own bucket may be changed by others again: it must not delete them.
        const reopened = returned.flatMap(({ file: { image }, size }) =>
          image && size !== undefined ? [{ id: image.id, size }] : [],
        );
        await run.query(
          `UPDATE chat_images SET sha256_stored = NULL, size = reopened.size, imported_as = NULL, updated_at = now()
           FROM jsonb_to_recordset($1::jsonb) AS reopened (id bigint, size int) WHERE chat_images.id = reopened.id`,
          [JSON.stringify(reopened)],
        );
        await record.change(
          run,
          returned.flatMap(({ file, isBack }) => (isBack ? [file.filePath] : [])),
          'returned',
        );
        return claimed;
      });
      if (files.length === 0) return;
      after = files.at(-1)?.filePath ?? after;
    }
  }

  private async putBackFile(
    source: ImportSource,
    { filePath, image, state, sourceSha256 }: ImportedFile,
    makePublic: boolean,
  ): Promise<Return> {
    try {
      const there = await source.read(filePath, MAX_SOURCE_BYTES);
      const isSame = there && [sourceSha256, image?.sha256Stored].includes(there.sha256);
      if (there && !isSame) return 'not put back: another file has its place';
      if (there && (state !== 'closed' || !makePublic)) return 'still there';
      const pieces = there?.pieces ?? (image && (await this.read(filePath)));
      if (!image) return 'not put back: its image was deleted here';
      if (!pieces) return 'not put back: the storage has lost it';
      await source.write(filePath, pieces, { contentType: image.mimeType, isPublic: makePublic });
      return 'put back';
    } catch (error) {
      if (error instanceof SourceFileError) return 'not put back: its place can not be read';
      throw error;
    }
  }

  /** Writes the original bytes over the private object, public again. @returns with the size of the object then */
  private async reopen(
    source: ImportSource,
    { filePath, image, original }: ImportedFile,
  ): Promise<readonly [Return, size?: number]> {
    if (!image) return ['not put back: its image was deleted here'];
    const kept = original === null ? undefined : await source.read(filePath, MAX_SOURCE_BYTES, original);
    const pieces = kept?.pieces ?? (await this.read(filePath));
    if (!pieces) return ['not put back: the storage has lost it'];
    await source.write(filePath, pieces, { contentType: image.mimeType, isPublic: true });
    return ['put back', lengthOf(pieces)];
  }

  private async read(filePath: string): Promise<BytePieces | undefined> {
    try {
      const collector = new PieceCollector();
      for await (const chunk of await this.storage.get(filePath)) collector.add(chunk as Buffer);
      return collector.finish();
    } catch (error) {
      if (error instanceof ObjectNotFoundError) return undefined;
      throw error;
    }
  }
}
