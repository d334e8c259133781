import { parse } from 'csv-parse';
import { createReadStream } from 'node:fs';
import type { DataSource, EntityManager } from 'typeorm';
import { parseId } from '../database/parse-id.js';
import { SourceError } from './import-source.js';
import type { OldPicture } from './old-picture.js';

/** Where it is written who has sent a picture. At least one of the three is needed: nobody is guessed. */
export type UploaderOptions = {
  /** A CSV file with the columns `file_path`, `uploaded_by` and, where it is known, `created_at`. */
  readonly manifest: string | undefined;
  /** SQL on the database of DATABASE_URL that gives the same columns. */
  readonly query: string | undefined;
  /** For pictures that neither of the two names. */
  readonly default: 'patient' | 'doctor' | number | undefined;
};

/** Who has sent a picture, and when, where that is known. */
export type Uploader = { readonly id: number; readonly createdAt?: Date | undefined };

/** The participants of a conversation. */
export type Participants = { readonly patientId: number | null; readonly doctorId: number | null };

/** Rows that one FETCH reads. */
const PAGE = 10_000;

/** Who has sent the old pictures, by the file name, which is unique. */
export class Uploaders {
  private readonly known = new Map<string, Uploader>();

  private constructor(private readonly fallback: UploaderOptions['default']) {}

  /** @throws SourceError for a row of the manifest, or of the query, that can't be used */
  static async read(options: UploaderOptions, dataSource: DataSource): Promise<Uploaders> {
    const uploaders = new Uploaders(options.default);
    if (options.query !== undefined) await uploaders.readQuery(options.query, dataSource);
    if (options.manifest !== undefined) await uploaders.readManifest(options.manifest);
    return uploaders;
  }

  /** @returns `undefined` where nobody is known */
  find({ filename }: OldPicture, { patientId, doctorId }: Participants): Uploader | undefined {
    const known = this.known.get(filename);
    if (known) return known;
    const id = { patient: patientId, doctor: doctorId }[String(this.fallback)] ?? this.fallback;
    return typeof id === 'number' ? { id } : undefined;
  }

  private async readManifest(file: string): Promise<void> {
    const rows = createReadStream(file).pipe(
      parse({ columns: true, bom: true, trim: true, skip_empty_lines: true, info: true }),
    );
    try {
      for await (const { record, info } of rows as AsyncIterable<{
        record: Record<string, unknown>;
        info: { lines: number };
      }>)
        this.add(record, `Line ${info.lines} of the manifest`);
    } catch (error) {
      if (error instanceof SourceError) throw error;
      throw new SourceError(
        `The manifest can not be read: ${error instanceof Error ? error.message : 'unknown error'}.`,
        { cause: error },
      );
    }
  }

  private async readQuery(query: string, dataSource: DataSource): Promise<void> {
    try {
      await dataSource.transaction(async (manager) => {
        await manager.query('SET TRANSACTION READ ONLY');
        await manager.query(
          `DECLARE uploaders CURSOR FOR SELECT to_jsonb(sent) AS row FROM (${query.replace(/;\s*$/, '')}) sent`,
        );
        for (let rows = await fetch(manager); rows.length > 0; rows = await fetch(manager))
          for (const { row } of rows) this.add(row, 'A row of --uploader-query');
      });
    } catch (error) {
      if (error instanceof SourceError) throw error;
      throw new SourceError(
        `--uploader-query does not run: ${error instanceof Error ? error.message : 'unknown error'}.`,
        { cause: error },
      );
    }
  }

  /** @throws SourceError */
  private add(row: Readonly<Record<string, unknown>>, place: string): void {
    const { file_path: path, uploaded_by: user, created_at: time } = row;
    if (typeof path !== 'string' || !('uploaded_by' in row))
      throw new SourceError(`${place} has not the columns file_path and uploaded_by.`);
    // Messages of nobody, such as of the system, name no sender.
    if (user === null || user === '') return;
    const id = parseId(typeof user === 'number' || typeof user === 'string' ? String(user) : '');
    if (id === undefined) throw new SourceError(`${place} has no user id in uploaded_by.`);
    const createdAt = typeof time === 'string' && time !== '' ? toDate(time) : undefined;
    if (createdAt && Number.isNaN(createdAt.getTime()))
      throw new SourceError(`${place} has no time in created_at: it should be like 2025-11-05T21:50:01Z.`);
    const filename = path.replace(/[?#].*$/s, '').replace(/^.*\//s, '');
    const before = this.known.get(filename);
    if (before && before.id !== id)
      throw new SourceError(`${place} names another sender of ${filename} than an earlier one.`);
    this.known.set(filename, { id, createdAt });
  }
}

function fetch(manager: EntityManager): Promise<{ row: Record<string, unknown> }[]> {
  return manager.query<{ row: Record<string, unknown> }[]>(`FETCH ${PAGE} FROM uploaders`);
}

/** A time without a zone is in UTC, as Laravel writes it. */
function toDate(time: string): Date {
  const hasZone = /(Z|[+-]\d\d:?\d\d)$/.test(time);
  return new Date(hasZone ? time : `${time.replace(' ', 'T')}Z`);
}
