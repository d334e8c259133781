import type { DataSource, EntityManager } from 'typeorm';
import { conversationColumns, type ImportedAs } from '../chat-images/entities/chat-image.entity.js';
import type { ImportState } from '../chat-images/entities/chat-image-import.entity.js';
import { sqlState } from '../database/database-failure.js';
import type { OldPicture } from './old-picture.js';
import type { Participants } from './uploaders.js';

/** A file that this run has claimed: no other run can claim it until the transaction ends. */
export type ClaimedFile = {
  readonly filePath: string;
  readonly state: 'waiting' | 'registered';
  /** The digest of the original bytes, and the place where they are kept. Only of a registered file. */
  readonly sourceSha256: string | null;
  readonly original: string | null;
};

/** A file that was imported, and its image, where that is still stored. */
export type ImportedFile = {
  readonly filePath: string;
  readonly state: ImportState;
  readonly sourceSha256: string | null;
  /** Where the original bytes are kept. */
  readonly original: string | null;
  readonly image: {
    readonly id: number;
    readonly mimeType: string;
    readonly sha256Stored: string | null;
  } | null;
};

/** A page of imported files. */
type ImportedPage = {
  /** The last path of the page before. */
  readonly after: string;
  readonly limit: number;
  readonly states: readonly ImportState[];
  /** Only files that were stored before this time. */
  readonly storedBefore?: Date;
};

/** Facts about a file from the database: its conversation, and the image that has its name already. */
export type FileFacts = Participants & {
  readonly filePath: string;
  readonly hasConversation: boolean;
  readonly image: {
    readonly id: number;
    readonly filePath: string;
    readonly uploadedBy: number;
    readonly sha256Sent: string | null;
    readonly sha256Stored: string | null;
  } | null;
};

/** The row of an image that is imported. */
export type ImportedRow = {
  readonly picture: OldPicture;
  readonly uploadedBy: number;
  readonly createdAt: Date;
  readonly size: number;
  readonly mimeType: string;
  readonly width: number;
  readonly height: number;
  readonly importedAs: ImportedAs;
  /** The digest of the file in the source. */
  readonly sha256Sent: string;
  /** None while the object is not written by this service. */
  readonly sha256Stored: string | null;
};

/** The outcome of a file, as it is recorded. */
export type FileOutcome = {
  readonly filePath: string;
  readonly state: ImportState;
  readonly reason?: string | undefined;
  /** The image, where it was here before. */
  readonly imageId?: number | undefined;
  readonly row?: ImportedRow | undefined;
  readonly sourceSha256?: string | undefined;
  readonly original?: string | undefined;
};

const FOREIGN_KEY_VIOLATION = '23503';

const VANISHED = 'The conversation or the sender was deleted during the import.';
export const NAME_TAKEN = 'Another image has the name.';

/**
 * The table `chat_image_imports`: the queue and the result of the import. A run claims files by locking their rows, so
 * several runs at once do different files, and a killed run leaves nothing behind.
 */
export class ImportRecord {
  /** @param textSessions whether a conversation may be a text session */
  constructor(
    private readonly dataSource: DataSource,
    private readonly source: string,
    private readonly textSessions: boolean,
  ) {}

  /** The database's clock, the same for every run. */
  async now(): Promise<Date> {
    const [row] = await this.dataSource.query<{ now: Date }[]>('SELECT now() AS now');
    return row?.now ?? new Date();
  }

  /**
   * Records files that a listing has found. Failed and vanished files wait again, but for those that a run which is younger
   * than this one has tried.
   */
  async notice(paths: readonly string[], since: Date): Promise<void> {
    await this.dataSource.query(
      `INSERT INTO chat_image_imports (source, file_path) SELECT $1, unnest($2::text[]) ON CONFLICT (source, file_path) DO NOTHING`,
      [this.source, paths],
    );
    // MATERIALIZED: on a table without statistics, the planner would run the subquery once for each row.
    await this.dataSource.query(
      `WITH again AS MATERIALIZED (
         SELECT file_path FROM chat_image_imports
         WHERE source = $1 AND file_path = ANY($2) AND state IN ('failed', 'gone', 'returned') AND updated_at < $3
         FOR UPDATE SKIP LOCKED
       )
       UPDATE chat_image_imports SET state = 'waiting', reason = NULL, source_sha256 = NULL, original = NULL,
         updated_at = now()
       FROM again WHERE source = $1 AND chat_image_imports.file_path = again.file_path`,
      [this.source, paths, since],
    );
  }

  /**
   * In this service's own bucket: the objects that it has written itself, without an import. They are of images, or of deleted
   * images, whose objects will go.
   */
  async ownObjects(paths: readonly string[]): Promise<ReadonlySet<string>> {
    const rows = await this.dataSource.query<{ path: string }[]>(
      `SELECT path FROM unnest($2::text[]) path
       WHERE (EXISTS (SELECT FROM chat_images WHERE file_path COLLATE "C" = path AND sha256_stored IS NOT NULL)
           OR EXISTS (SELECT FROM chat_image_tombstones WHERE object_key = path))
         AND NOT EXISTS (SELECT FROM chat_image_imports WHERE source = $1 AND chat_image_imports.file_path = path)`,
      [this.source, paths],
    );
    return new Set(rows.map(({ path }) => path));
  }

  /** The states of files that are recorded. */
  async states(paths: readonly string[]): Promise<ReadonlyMap<string, ImportState>> {
    const rows = await this.dataSource.query<{ filePath: string; state: ImportState }[]>(
      `SELECT file_path AS "filePath", state FROM chat_image_imports WHERE source = $1 AND file_path = ANY($2)`,
      [this.source, paths],
    );
    return new Map(rows.map(({ filePath, state }) => [filePath, state]));
  }

  /** After a complete listing: failed files that were not in it have vanished. */
  async markVanished(since: Date): Promise<void> {
    await this.dataSource.query(
      `UPDATE chat_image_imports SET state = 'gone', reason = 'The file is not there any more.', updated_at = now()
       WHERE source = $1 AND state = 'failed' AND updated_at < $2`,
      [this.source, since],
    );
  }

  /** @returns how many files wait, of those with a time in their name from `from` on */
  async countWaiting(from: Date | undefined): Promise<number> {
    const [row] = await this.dataSource.query<{ count: number }[]>(
      `SELECT count(*) AS count FROM chat_image_imports
       WHERE source = $1 AND state IN ('waiting', 'registered') AND ${NAMED_FROM('$2')}`,
      [this.source, from ? from.getTime() / 1000 : null],
    );
    return row?.count ?? 0;
  }

  /** Runs work in a transaction, whose end frees the files that it has claimed. */
  transaction<T>(work: (run: EntityManager) => Promise<T>): Promise<T> {
    return this.dataSource.transaction(async (run) => {
      // The transaction waits for the storage. A server's limit for idle transactions would end it.
      await run.query('SET LOCAL idle_in_transaction_session_timeout = 0');
      return work(run);
    });
  }

  /** Claims the next files in the order of their paths, without those of other runs. */
  claim(
    run: EntityManager,
    {
      after,
      limit,
      from,
    }: { readonly after: string; readonly limit: number; readonly from: Date | undefined },
  ): Promise<readonly ClaimedFile[]> {
    return run.query<ClaimedFile[]>(
      `SELECT file_path AS "filePath", state, source_sha256 AS "sourceSha256", original FROM chat_image_imports
       WHERE source = $1 AND state IN ('waiting', 'registered') AND file_path > $2 AND ${NAMED_FROM('$3')}
       ORDER BY file_path LIMIT $4 FOR UPDATE SKIP LOCKED`,
      [this.source, after, from ? from.getTime() / 1000 : null, limit],
    );
  }

  /** Claims registered files again, in a new transaction. */
  async claimRegistered(run: EntityManager, paths: readonly string[]): Promise<ReadonlySet<string>> {
    const rows = await run.query<{ filePath: string }[]>(
      `SELECT file_path AS "filePath" FROM chat_image_imports
       WHERE source = $1 AND file_path = ANY($2) AND state = 'registered' FOR UPDATE SKIP LOCKED`,
      [this.source, paths],
    );
    return new Set(rows.map(({ filePath }) => filePath));
  }

  /** Claims files that were imported, in the order of their paths, without those that another run works on. */
  claimImported(run: EntityManager, page: ImportedPage): Promise<readonly ImportedFile[]> {
    return this.imported(run, page, 'FOR UPDATE OF record SKIP LOCKED');
  }

  /** Reads files that were imported, in the order of their paths. */
  readImported(page: ImportedPage): Promise<readonly ImportedFile[]> {
    return this.imported(this.dataSource.manager, page, '');
  }

  private imported(
    run: EntityManager,
    { after, limit, states, storedBefore }: ImportedPage,
    lock: 'FOR UPDATE OF record SKIP LOCKED' | '',
  ): Promise<readonly ImportedFile[]> {
    return run.query<ImportedFile[]>(
      `SELECT record.file_path AS "filePath", record.state, source_sha256 AS "sourceSha256", original,
         CASE WHEN image.id IS NOT NULL THEN json_build_object('id', image.id, 'mimeType', image.mime_type,
           'sha256Stored', image.sha256_stored) END AS image
       FROM chat_image_imports record
       LEFT JOIN chat_images image ON image.id = chat_image_id AND image.state = 'stored'
         AND image.file_path = record.file_path
       WHERE source = $1 AND record.state = ANY($2) AND record.file_path > $3
         AND ($5::timestamptz IS NULL OR stored_at < $5)
       ORDER BY record.file_path LIMIT $4 ${lock}`,
      [this.source, states, after, limit, storedBefore ?? null],
    );
  }

  /** Records a later step of files that were imported. Their digests and times stay. */
  async change(run: EntityManager, paths: readonly string[], state: ImportState): Promise<void> {
    await run.query(
      `UPDATE chat_image_imports SET state = $3, updated_at = now() WHERE source = $1 AND file_path = ANY($2)`,
      [this.source, paths, state],
    );
  }

  async facts(run: EntityManager, pictures: readonly OldPicture[]): Promise<ReadonlyMap<string, FileFacts>> {
    const columns = pictures.map(({ conversation }) => conversationColumns(conversation));
    const rows = await run.query<FileFacts[]>(
      `SELECT asked.file_path AS "filePath", conversation.id IS NOT NULL AS "hasConversation",
         patient_id AS "patientId", doctor_id AS "doctorId",
         CASE WHEN image.id IS NOT NULL THEN json_build_object('id', image.id, 'filePath', image.file_path,
           'uploadedBy', image.uploaded_by, 'sha256Sent', image.sha256_sent, 'sha256Stored', image.sha256_stored) END AS image
       FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
         AS asked (file_path, filename, appointment_id, text_session_id)
       LEFT JOIN LATERAL (
         SELECT id, patient_id, doctor_id FROM appointments WHERE id = asked.appointment_id
         ${this.textSessions ? 'UNION ALL SELECT id, patient_id, doctor_id FROM text_sessions WHERE id = asked.text_session_id' : ''}
       ) conversation ON true
       LEFT JOIN chat_images image ON image.filename = asked.filename`,
      [
        pictures.map(({ filePath }) => filePath),
        pictures.map(({ filename }) => filename),
        columns.map(({ appointmentId }) => appointmentId),
        columns.map(({ textSessionId }) => textSessionId),
      ],
    );
    return new Map(rows.map((facts) => [facts.filePath, facts]));
  }

  async existingUsers(run: EntityManager, ids: readonly number[]): Promise<ReadonlySet<number>> {
    const rows = await run.query<{ id: number }[]>('SELECT id FROM users WHERE id = ANY($1::bigint[])', [
      ids,
    ]);
    return new Set(rows.map(({ id }) => id));
  }

  /**
   * Writes images and outcomes. An image whose conversation or sender was deleted meanwhile, or whose name was taken, is
   * reported as failed.
   *
   * @returns the outcomes as they were written
   */
  async finish(run: EntityManager, outcomes: readonly FileOutcome[]): Promise<readonly FileOutcome[]> {
    const written = await this.writeImages(run, outcomes);
    const final = outcomes.map((outcome): FileOutcome => {
      if (!outcome.row) return outcome;
      const image = written.get(outcome.filePath);
      return typeof image === 'number'
        ? { ...outcome, imageId: image }
        : { filePath: outcome.filePath, state: 'failed', reason: image ?? NAME_TAKEN };
    });
    await run.query(
      `UPDATE chat_image_imports SET state = done.state, reason = done.reason, chat_image_id = done.image_id,
         source_sha256 = coalesce(done.source_sha256, chat_image_imports.source_sha256),
         original = coalesce(done.original, chat_image_imports.original),
         stored_at = CASE WHEN done.state = 'stored' THEN now() ELSE stored_at END, updated_at = now()
       FROM jsonb_to_recordset($2::jsonb)
         AS done (file_path text, state text, reason text, image_id bigint, source_sha256 text, original text)
       WHERE source = $1 AND chat_image_imports.file_path = done.file_path`,
      [
        this.source,
        JSON.stringify(
          final.map(({ filePath, state, reason, imageId, sourceSha256, original }) => ({
            file_path: filePath,
            state,
            reason: reason?.slice(0, 255),
            image_id: imageId,
            source_sha256: sourceSha256,
            original,
          })),
        ),
      ],
    );
    return final;
  }

  /** @returns by path, the id of the image, or why there is none */
  private async writeImages(
    run: EntityManager,
    outcomes: readonly FileOutcome[],
  ): Promise<ReadonlyMap<string, number | string>> {
    const rows = outcomes.flatMap(({ row }) => (row ? [row] : []));
    if (rows.length === 0) return new Map();
    await run.query('SAVEPOINT images');
    try {
      return new Map(await this.insertImages(run, rows));
    } catch (error) {
      await run.query('ROLLBACK TO SAVEPOINT images');
      if (sqlState(error) !== FOREIGN_KEY_VIOLATION) throw error;
      const [only] = rows;
      if (only && rows.length === 1) return new Map([[only.picture.filePath, VANISHED]]);
    }
    const alone: [string, number | string][] = [];
    for (const outcome of outcomes) if (outcome.row) alone.push(...(await this.writeImages(run, [outcome])));
    return new Map(alone);
  }

  /**
   * An image of the main application, which has no digest, is completed. Its sender and its time stay. `updated_at` is the
   * time of the statement, after the object was written: the reconciler compares only rows that are older than its listing. Its
   * thumbnail may be made now: before, its object may not have been in this storage.
   */
  private async insertImages(
    run: EntityManager,
    rows: readonly ImportedRow[],
  ): Promise<readonly (readonly [string, number])[]> {
    const images = await run.query<{ id: number; filePath: string }[]>(
      `INSERT INTO chat_images (appointment_id, text_session_id, file_path, filename, uploaded_by, size, mime_type, width,
         height, state, imported_as, sha256_sent, sha256_stored, created_at, updated_at)
       SELECT appointment_id, text_session_id, file_path, filename, uploaded_by, size, mime_type, width, height, 'stored',
         imported_as, sha256_sent, sha256_stored, created_at, clock_timestamp()
       FROM jsonb_to_recordset($1::jsonb) AS image (appointment_id bigint, text_session_id bigint, file_path text, filename text,
         uploaded_by bigint, size int, mime_type text, width int, height int, imported_as text, sha256_sent text,
         sha256_stored text, created_at timestamptz)
       ON CONFLICT (filename) DO UPDATE SET size = excluded.size, mime_type = excluded.mime_type, width = excluded.width,
         height = excluded.height, imported_as = excluded.imported_as, sha256_sent = excluded.sha256_sent,
         sha256_stored = excluded.sha256_stored,
         thumbnail_lease_until = CASE WHEN chat_images.thumbnail_lease_until IS NOT NULL THEN now() END, updated_at = clock_timestamp()
         WHERE chat_images.file_path = excluded.file_path AND chat_images.sha256_stored IS NULL
           AND chat_images.state = 'stored'
       RETURNING id, file_path AS "filePath"`,
      [
        JSON.stringify(
          rows.map((row) => ({
            appointment_id: conversationColumns(row.picture.conversation).appointmentId,
            text_session_id: conversationColumns(row.picture.conversation).textSessionId,
            file_path: row.picture.filePath,
            filename: row.picture.filename,
            uploaded_by: row.uploadedBy,
            size: row.size,
            mime_type: row.mimeType,
            width: row.width,
            height: row.height,
            imported_as: row.importedAs,
            sha256_sent: row.sha256Sent,
            sha256_stored: row.sha256Stored,
            created_at: row.createdAt,
          })),
        ),
      ],
    );
    const missing = rows.filter(
      ({ picture }) => !images.some(({ filePath }) => filePath === picture.filePath),
    );
    return [...images, ...(await this.findSame(run, missing))].map(
      ({ id, filePath }) => [filePath, id] as const,
    );
  }

  /** Images that another run has stored meanwhile, from another source: the same object, so the same picture. */
  private async findSame(
    run: EntityManager,
    rows: readonly ImportedRow[],
  ): Promise<readonly { readonly id: number; readonly filePath: string }[]> {
    if (rows.length === 0) return [];
    return run.query<{ id: number; filePath: string }[]>(
      `SELECT id, file_path AS "filePath" FROM chat_images
       JOIN unnest($1::text[], $2::text[]) AS wanted (path, digest) ON file_path = path AND sha256_stored = digest
       WHERE state = 'stored'`,
      [rows.map(({ picture }) => picture.filePath), rows.map(({ sha256Stored }) => sha256Stored)],
    );
  }
}

/** A condition on the time in the file name. @param seconds the parameter; null for no limit */
const NAMED_FROM = (seconds: string): string =>
  `(${seconds}::numeric IS NULL OR substring(file_path from '/(\\d{9,10})_[^/]*$')::numeric >= ${seconds}::numeric)`;
