import { Inject, Injectable } from '@nestjs/common';
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import pLimit, { type LimitFunction } from 'p-limit';
import { DataSource, type EntityManager } from 'typeorm';
import { STORAGE_FOLDER } from '../chat-images/entities/chat-image-path.js';
import type { ImportedAs } from '../chat-images/entities/chat-image.entity.js';
import type { ImportState } from '../chat-images/entities/chat-image-import.entity.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { detectFormat } from '../pictures/image-format.js';
import { ImagePreparer, SIGNATURE_BYTES } from '../pictures/image-preparer.js';
import { PictureError } from '../pictures/picture-error.js';
import { type BytePieces, lengthOf, rangeOf } from '../storage/byte-pieces.js';
import { ObjectExistsError } from '../storage/storage-errors.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { MAX_FILE_BYTES } from '../uploads/upload-limits.js';
import { BucketSource } from './bucket-source.js';
import {
  type ClaimedFile,
  type FileFacts,
  type FileOutcome,
  ImportRecord,
  NAME_TAKEN,
} from './import-record.js';
import {
  type ImportSource,
  type ListedFile,
  MAX_SOURCE_BYTES,
  SourceError,
  SourceFile,
  SourceFileError,
} from './import-source.js';
import { type OldPicture, parseOldPicture } from './old-picture.js';
import type { Uploader, Uploaders } from './uploaders.js';

export type ImportOptions = {
  /** Stores the bytes as they are, with their metadata. */
  readonly keepBytes: boolean;
  /** Brings in pictures that an upload would refuse, as they are, when they are of an allowed type. */
  readonly lenient: boolean;
  /** Examines all files, and changes nothing. */
  readonly dryRun: boolean;
  /** Files that are imported at the same time. */
  readonly concurrency: number;
  /** The most files of this run. */
  readonly limit: number;
  /** Only files with this time in their name, or a later one. */
  readonly since: Date | undefined;
};

/** A line of the report: a file and its outcome. */
export type ReportLine = {
  readonly file: string;
  readonly outcome: ImportState | 'unknown' | 'done before' | 'would be stored';
  readonly reason?: string | undefined;
  readonly as?: ImportedAs | undefined;
};

export type ImportEvents = {
  readonly report: (line: ReportLine) => void;
  /** Called while the source is listed, with the number of pictures so far. */
  readonly listed: (pictures: number) => void;
  /** Called when a file is done, with the number of files that this run had to do at its start. */
  readonly progress: (done: number, total: number) => void;
};

/** Files of one page of a listing. */
const PAGE = 1000;

/** Batches at the same time: one is written to the database while the pictures of the other are stored. */
const BATCHES = 2;

/** A batch has this many files for each file that is imported at the same time: a commit takes as long as a few files. */
const ROUNDS_OF_BATCH = 4;

/**
 * In place: the time from the commit of a row to the rewriting of its object. A client that was redirected to the public
 * object just before the commit gets there while it is still public.
 */
const SETTLE_MS = 2000;

/** In place: batches at the same time. Most of them wait for {@link SETTLE_MS}. */
const BATCHES_IN_PLACE = 8;

/** How often a picture is tried to be decoded when no process is free in time. */
const DECODE_ATTEMPTS = 3;

/** Picture and facts that decide whether a file can be imported. */
type Candidate = { readonly claimed: ClaimedFile; readonly picture: OldPicture; readonly facts: FileFacts };

/** A file that was examined: ready to be stored. */
type ReadyFile = {
  readonly candidate: Candidate;
  readonly file: SourceFile;
  readonly stored: StoredForm;
  readonly uploader: Uploader;
  /** In place: an earlier run was cut after it had rewritten the object. Its original is kept already. */
  readonly isRewritten?: boolean;
};

/** The form in which a picture will be stored. */
type StoredForm = {
  readonly pieces: BytePieces;
  readonly sha256: string;
  /** SHA-256 of the file in the source. */
  readonly sha256Sent: string;
  readonly mimeType: string;
  readonly width: number;
  readonly height: number;
  readonly as: ImportedAs;
};

/**
 * Imports old pictures from a source. The order of the steps keeps every picture readable at every moment:
 * from another place, the object is stored and read back, then its row is committed. In this service's own bucket, the row is
 * committed first, while the object is still public, then after a pause the object is rewritten in place.
 */
@Injectable()
export class ImageImporter {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    private readonly preparer: ImagePreparer,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * @param signal ends the run after the files that it works on
   * @returns how many files still wait at the end
   * @throws SourceError, StorageUnavailableError, or an error of the database: the run can be started again
   */
  async run(
    source: ImportSource,
    uploaders: Uploaders,
    options: ImportOptions,
    events: ImportEvents,
    signal: AbortSignal,
  ): Promise<number> {
    const record = new ImportRecord(this.dataSource, source.name, this.settings.textSessions);
    const run = new ImportRun(
      source,
      uploaders,
      options,
      record,
      this.storage,
      this.preparer,
      options.dryRun || source.isTarget || (await tryStorage(this.storage, source)),
    );
    const since = await record.now();
    let pictures = 0;
    for await (const page of pagesOf(source.list())) {
      if (signal.aborted) return record.countWaiting(options.since);
      const listed: OldPicture[] = [];
      for (const file of page) {
        if ('unknown' in file) events.report({ file: file.path, outcome: 'unknown', reason: file.unknown });
        else listed.push(file);
      }
      const own = source.isTarget
        ? await record.ownObjects(listed.map(({ filePath }) => filePath))
        : new Set<string>();
      const found = listed.filter(({ filePath }) => !own.has(filePath));
      const paths = found.map(({ filePath }) => filePath);
      if (!options.dryRun) await record.notice(paths, since);
      const states = await record.states(paths);
      const done = found.filter(({ filePath }) => isDone(states.get(filePath)));
      for (const { filePath } of done) events.report({ file: filePath, outcome: 'done before' });
      if (options.dryRun) {
        const from = options.since ?? new Date(0);
        const left = found.filter((picture) => !done.includes(picture) && picture.uploadedAt >= from);
        for (const line of await run.examineOnly(left)) events.report(line);
      }
      pictures += found.length;
      events.listed(pictures);
    }
    if (options.dryRun) return 0;
    await record.markVanished(since);
    await this.importWaiting(run, record, options, events, signal);
    return record.countWaiting(options.since);
  }

  private async importWaiting(
    run: ImportRun,
    record: ImportRecord,
    { concurrency, limit, since }: ImportOptions,
    { report, progress }: ImportEvents,
    signal: AbortSignal,
  ): Promise<void> {
    const total = Math.min(limit, await record.countWaiting(since));
    let claimedCount = 0;
    let done = 0;
    let after = '';
    const work = async (): Promise<void> => {
      while (!signal.aborted && claimedCount < limit) {
        const outcomes = await run.importBatch(async (manager) => {
          const size = Math.min(run.filesOfBatch, limit - claimedCount);
          const claimed = await record.claim(manager, { after, limit: size, from: since });
          after = claimed.at(-1)?.filePath ?? after;
          claimedCount += claimed.length;
          return claimed;
        });
        if (outcomes.length === 0) return;
        for (const { filePath, state, reason, row } of outcomes)
          report({ file: filePath, outcome: state, reason, as: row?.importedAs });
        done += outcomes.length;
        progress(done, Math.max(total, done));
      }
    };
    // Claims of one run follow each other: each begins after the last path of the one before.
    const failures = (
      await Promise.allSettled(Array.from({ length: concurrency > 1 ? run.batches : 1 }, work))
    ).filter((result) => result.status === 'rejected');
    if (failures[0]) throw failures[0].reason;
  }
}

/** The work on the files of one run. */
class ImportRun {
  private readonly limit: LimitFunction;
  private readonly claims = pLimit(1);
  /** In place, batches that wait must not take the connections of the others. */
  private readonly transactions = pLimit(BATCHES);
  private decoded = 0;

  constructor(
    private readonly source: ImportSource,
    private readonly uploaders: Uploaders,
    private readonly options: ImportOptions,
    private readonly record: ImportRecord,
    private readonly storage: StorageProvider,
    private readonly preparer: ImagePreparer,
    private readonly refusesToReplace: boolean,
  ) {
    this.limit = pLimit(options.concurrency);
  }

  /** How many files one transaction claims. In place they stay in memory for {@link SETTLE_MS}. */
  get filesOfBatch(): number {
    return this.options.concurrency * (this.source.isTarget ? 1 : ROUNDS_OF_BATCH);
  }

  /** How many batches are worked on at the same time. */
  get batches(): number {
    return this.source.isTarget ? BATCHES_IN_PLACE : BATCHES;
  }

  /** Imports the files that `claim` returns, in one transaction. @returns no outcome when there was no file */
  async importBatch(
    claim: (manager: EntityManager) => Promise<readonly ClaimedFile[]>,
  ): Promise<readonly FileOutcome[]> {
    const registered: ReadyFile[] = [];
    const outcomes = await this.transaction(async (manager) => {
      const claimed = await this.claims(() => claim(manager));
      if (claimed.length === 0) return [];
      const written = new Set<string>();
      const names = new Set<string>();
      const results = await this.examineAll(manager, claimed, (ready): FileOutcome | Promise<FileOutcome> => {
        const { filePath, filename } = ready.candidate.picture;
        // Names are unique: of files of one batch with the same name, only the first goes on.
        if (names.has(filename)) return { filePath, state: 'failed', reason: NAME_TAKEN };
        names.add(filename);
        if (!this.source.isTarget) return this.store(ready, written);
        // The original bytes are not needed any more.
        const { version, versionId } = ready.file;
        registered.push({ ...ready, file: new SourceFile([], version, versionId) });
        return { ...outcomeOf(ready, null), state: 'registered', original: this.originalOf(ready) };
      });
      const final = await this.record.finish(manager, results);
      // Another run was faster with the name, or the conversation is gone: an object without a row would be left.
      const unwanted = final.filter(({ filePath, state }) => state === 'failed' && written.has(filePath));
      await this.limit.map(unwanted, ({ filePath }) => this.storage.delete(filePath));
      return final;
    });
    if (registered.length === 0) return outcomes;
    await setTimeout(SETTLE_MS);
    const rewritten = await this.rewrite(
      registered.filter(({ candidate }) =>
        outcomes.some(
          ({ filePath, state }) => filePath === candidate.picture.filePath && state === 'registered',
        ),
      ),
    );
    return outcomes.map((outcome) => rewritten.get(outcome.filePath) ?? outcome);
  }

  private transaction<T>(work: (manager: EntityManager) => Promise<T>): Promise<T> {
    return this.transactions(() => this.record.transaction(work));
  }

  /** Examines files without a claim, and stores nothing. */
  async examineOnly(pictures: readonly OldPicture[]): Promise<readonly ReportLine[]> {
    const claimed = pictures.map(({ filePath }): ClaimedFile => ({
      filePath,
      state: 'waiting',
      sourceSha256: null,
      original: null,
    }));
    const lines = await this.record.transaction((manager) =>
      this.examineAll(manager, claimed, ({ candidate, stored }): ReportLine => {
        return { file: candidate.picture.filePath, outcome: 'would be stored', as: stored.as };
      }),
    );
    return lines.map((line) =>
      'state' in line ? { file: line.filePath, outcome: line.state, reason: line.reason } : line,
    );
  }

  /**
   * @param next gets each file that is ready to be stored
   * @returns the results of `next`, and the outcomes of the other files
   */
  private async examineAll<T>(
    manager: EntityManager,
    claimed: readonly ClaimedFile[],
    next: (ready: ReadyFile) => T | Promise<T>,
  ): Promise<readonly (T | FileOutcome)[]> {
    const pictures = claimed.map(({ filePath }) => parseOldPicture(filePath)).filter((picture) => !!picture);
    const allFacts = await this.record.facts(manager, pictures);
    const uploaders = new Map(
      pictures.map((picture) => [picture.filePath, this.uploaderOf(picture, allFacts.get(picture.filePath))]),
    );
    const users = await this.record.existingUsers(
      manager,
      [...uploaders.values()].flatMap((uploader) => (uploader ? [uploader.id] : [])),
    );
    return this.limit.map(claimed, async (file) => {
      const { filePath } = file;
      const picture = parseOldPicture(filePath);
      const facts = allFacts.get(filePath);
      const uploader = uploaders.get(filePath);
      const failed = (reason: string): FileOutcome => ({ filePath, state: 'failed', reason });
      if (!picture || !facts) return failed('The path has not the form of a picture.');
      if (!facts.hasConversation)
        return failed(`There is no ${picture.conversation.kind} ${picture.conversation.id}.`);
      if (facts.image && facts.image.filePath !== filePath) return failed(NAME_TAKEN);
      if (!uploader)
        return failed('Nobody is known to have sent it: name the sender in a manifest, or a default.');
      if (!users.has(uploader.id)) return failed(`There is no user ${uploader.id}, who has sent it.`);
      const examined = await this.examine({ claimed: file, picture, facts }, uploader).catch(
        (error: unknown) => {
          if (error instanceof SourceFileError) return failed(error.message);
          if (error instanceof PictureError) return failed(reasonOf(error));
          throw error;
        },
      );
      return 'state' in examined ? examined : next(examined);
    });
  }

  private uploaderOf(picture: OldPicture, facts: FileFacts | undefined): Uploader | undefined {
    if (facts?.image) return { id: facts.image.uploadedBy };
    return facts && this.uploaders.find(picture, facts);
  }

  /**
   * Reads and checks a file, and makes the form that will be stored.
   *
   * @throws SourceFileError, PictureError
   */
  private async examine(candidate: Candidate, uploader: Uploader): Promise<ReadyFile | FileOutcome> {
    const { claimed, facts, picture } = candidate;
    const { filePath } = picture;
    const maxBytes = this.options.lenient ? MAX_SOURCE_BYTES : MAX_FILE_BYTES;
    const file = await this.source.read(filePath, maxBytes);
    if (!file) return { filePath, state: 'gone', reason: 'The file is not there any more.' };
    if (facts.image && facts.image.sha256Stored !== null) {
      // Stored from another source, or put back by a rollback.
      return [facts.image.sha256Sent, facts.image.sha256Stored].includes(file.sha256)
        ? { filePath, state: 'stored', imageId: facts.image.id, sourceSha256: file.sha256 }
        : { filePath, state: 'failed', reason: NAME_TAKEN };
    }
    if (claimed.state === 'waiting' || claimed.sourceSha256 === file.sha256)
      return { candidate, file, stored: await this.storedForm(file), uploader };
    // An earlier run was cut while it rewrote the object: it holds the new bytes already.
    const original =
      claimed.original === null ? undefined : await this.source.read(filePath, maxBytes, claimed.original);
    const stored = original && (await this.storedForm(original));
    if (original?.sha256 !== claimed.sourceSha256 || stored?.sha256 !== file.sha256)
      throw new SourceFileError('It has changed during the import.');
    return { candidate, file, stored, uploader, isRewritten: true };
  }

  /** @throws PictureError where the picture is no picture, or an upload would refuse it */
  private async storedForm(file: SourceFile): Promise<StoredForm> {
    const { pieces } = file;
    const size = lengthOf(pieces);
    try {
      if (size > MAX_FILE_BYTES) throw new PictureError('invalid', 'The file is over 10 MiB.');
      return { ...(await this.prepare(pieces)), as: this.options.keepBytes ? 'kept' : 'cleaned' };
    } catch (error) {
      if (!(error instanceof PictureError) || error.failure !== 'invalid' || !this.options.lenient)
        throw error;
      const format = detectFormat(Buffer.concat(rangeOf(pieces, 0, SIGNATURE_BYTES)));
      const { sha256 } = file;
      const mimeType = `image/${format}`;
      return { pieces, sha256, sha256Sent: sha256, mimeType, width: 0, height: 0, as: 'unchecked' };
    }
  }

  private async prepare(pieces: BytePieces): ReturnType<ImagePreparer['prepare']> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        // Each file counts as a sender of its own: all decoding processes are for the import.
        this.decoded += 1;
        const sender = { userId: -this.decoded, left: new AbortController().signal };
        return await this.preparer.prepare(pieces, sender, { keepBytes: this.options.keepBytes });
      } catch (error) {
        if (!(error instanceof PictureError) || error.failure !== 'overloaded' || attempt === DECODE_ATTEMPTS)
          throw error;
      }
    }
  }

  /**
   * Stores a picture from another place. What is there already is never overwritten.
   *
   * @param written gets the path where this run writes the object
   */
  private async store(ready: ReadyFile, written: Set<string>): Promise<FileOutcome> {
    const { filePath } = ready.candidate.picture;
    const { sha256 } = ready.stored;
    try {
      if (!this.refusesToReplace && (await this.storage.head(filePath))) throw new ObjectExistsError();
      await this.put(ready, true);
      written.add(filePath);
    } catch (error) {
      if (!(error instanceof ObjectExistsError)) throw error;
      // An earlier run was cut after it had written the object.
      if ((await this.storage.digest(filePath)) !== sha256)
        return { filePath, state: 'failed', reason: 'Another object has its place in the storage.' };
    }
    return { ...outcomeOf(ready, sha256), state: 'stored' };
  }

  /**
   * Rewrites public objects in place, as private ones. Their rows are committed, so that they can be read all the time.
   *
   * @returns the outcomes by path
   */
  private async rewrite(files: readonly ReadyFile[]): Promise<ReadonlyMap<string, FileOutcome>> {
    const outcomes = await this.transaction(async (manager) => {
      const mine = await this.record.claimRegistered(
        manager,
        files.map(({ candidate }) => candidate.picture.filePath),
      );
      const results = await this.limit.map(
        files.filter(({ candidate }) => mine.has(candidate.picture.filePath)),
        (ready) =>
          this.rewriteOne(ready).catch((error: unknown): FileOutcome => {
            if (!(error instanceof SourceFileError)) throw error;
            return { filePath: ready.candidate.picture.filePath, state: 'failed', reason: error.message };
          }),
      );
      return this.record.finish(manager, results);
    });
    return new Map(outcomes.map((outcome) => [outcome.filePath, outcome]));
  }

  private async rewriteOne(ready: ReadyFile): Promise<FileOutcome> {
    const { filePath } = ready.candidate.picture;
    const original = this.originalOf(ready);
    const source = this.source;
    const changed: FileOutcome = { filePath, state: 'failed', reason: 'It has changed during the import.' };
    if (!(await source.isUnchanged(filePath, ready.file))) {
      // A run beside this one has rewritten the object, and was cut before it could say so. Its original is kept.
      if ((await this.storage.digest(filePath)) !== ready.stored.sha256) return changed;
    } else if (!ready.isRewritten) {
      if (source instanceof BucketSource) await source.keepOriginal(filePath, original);
      if (!(await source.isUnchanged(filePath, ready.file))) return changed;
    }
    await this.put(ready, false);
    // An old version has the public rights of its time.
    if (original?.startsWith('version ')) await source.close(filePath, original);
    return { ...outcomeOf(ready, ready.stored.sha256), state: 'stored', original };
  }

  /** A registered file keeps the place that was recorded first. */
  private originalOf({ candidate, file }: ReadyFile): string | undefined {
    if (candidate.claimed.original !== null) return candidate.claimed.original;
    return this.source instanceof BucketSource
      ? this.source.originalOf(candidate.picture.filePath, file)
      : undefined;
  }

  /** Writes an object and reads it back. @throws ObjectExistsError with `ifAbsent` */
  private async put({ candidate, stored }: ReadyFile, ifAbsent: boolean): Promise<void> {
    const { filePath } = candidate.picture;
    const { pieces, mimeType, sha256 } = stored;
    await this.storage.put(filePath, pieces, { contentType: mimeType, sha256, ifAbsent });
    if ((await this.storage.digest(filePath)) !== sha256)
      throw new SourceError(`The storage gives back other bytes than were written to ${filePath}.`);
  }
}

/**
 * Tries the storage with an object of its own: whether it refuses to replace an object, which some S3 servers can't, and
 * whether the source is another place.
 *
 * @returns whether it refuses to replace an object
 * @throws SourceError when the source is the storage itself, under another address
 */
async function tryStorage(storage: StorageProvider, source: ImportSource): Promise<boolean> {
  const key = `${STORAGE_FOLDER}/ping/${randomUUID()}`;
  const write = (ifAbsent: boolean): Promise<void> =>
    storage.put(key, [Buffer.from('ping')], { contentType: 'text/plain', ifAbsent });
  try {
    await write(false);
    if (await source.has(key))
      throw new SourceError(
        "--from leads to this service's own storage: for a bucket, name it as DO_SPACES_BUCKET and DO_SPACES_ENDPOINT do, without a prefix.",
      );
    await write(true);
    return false;
  } catch (error) {
    if (error instanceof ObjectExistsError) return true;
    throw error;
  } finally {
    await storage.delete(key);
  }
}

/** @param sha256Stored none while the object is not this service's */
function outcomeOf(
  { candidate, file, stored, uploader }: ReadyFile,
  sha256Stored: string | null,
): Omit<FileOutcome, 'state'> {
  const { picture } = candidate;
  return {
    filePath: picture.filePath,
    sourceSha256: stored.sha256Sent,
    row: {
      picture,
      uploadedBy: uploader.id,
      createdAt: uploader.createdAt ?? picture.uploadedAt,
      size: lengthOf(sha256Stored === null ? file.pieces : stored.pieces),
      mimeType: stored.mimeType,
      width: stored.width,
      height: stored.height,
      importedAs: stored.as,
      sha256Sent: stored.sha256Sent,
      sha256Stored,
    },
  };
}

const DONE: readonly (ImportState | undefined)[] = ['stored', 'deleted', 'closed'];

/** Whether nothing is left to do for a file. */
export function isDone(state: ImportState | undefined): boolean {
  return DONE.includes(state);
}

/** The first sentence: the second one speaks to the sender of an upload. */
function reasonOf({ message, failure }: PictureError): string {
  if (failure !== 'invalid') return 'It takes too long to decode.';
  return message.replace(/ (Please|Send) .*$/, '');
}

/** Collects a listing into pages, for statements about many files at once. */
export async function* pagesOf(files: AsyncIterable<ListedFile>): AsyncGenerator<readonly ListedFile[]> {
  let page: ListedFile[] = [];
  for await (const file of files) {
    page.push(file);
    if (page.length < PAGE) continue;
    yield page;
    page = [];
  }
  if (page.length > 0) yield page;
}
