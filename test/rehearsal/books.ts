import pLimit from 'p-limit';
import type { DataSource } from 'typeorm';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import { type Clients, type Shown, shownOf } from './clients.js';
import type { Ended, ReportLine } from './commands.js';
import type { Findings } from './findings.js';
import {
  createdAtOf,
  type Installation,
  isGood,
  isUnknownKind,
  type OldFile,
  secondsOf,
} from './installation.js';
import { CLIMBING_KEY, expectedReason, LINKED_FOLDER, PIPE, type Place } from './places.js';

const CONCURRENCY = 4;

type ImageRow = {
  readonly path: string;
  readonly state: string;
  readonly mimeType: string;
  readonly sender: number;
  readonly createdAt: Date;
  readonly importedAs: string | null;
};

/** What must be true of an installation, its private pictures and its reports. */
export class Books {
  /** Of files with the same name twice: those that are here. */
  private readonly winners = new Set<string>();
  /** Files that were changed during the import, with their new bytes. */
  private readonly changed = new Map<string, Buffer>();

  private constructor(
    private readonly place: Place,
    private readonly database: DataSource,
    private readonly findings: Findings,
    private readonly installation: Installation,
    private readonly before: ReadonlyMap<string, string>,
    private readonly objectsBefore: readonly string[],
  ) {}

  /** Notes what is there before the migration. */
  static async open(
    place: Place,
    database: DataSource,
    findings: Findings,
    installation: Installation,
  ): Promise<Books> {
    const before = await place.snapshot();
    return new Books(place, database, findings, installation, before, await place.objects());
  }

  /** The number of pictures that the import brings in, without those that come late. */
  get expectedPictures(): number {
    return this.pictureCount - this.ofKind('changing').length;
  }

  /** The number of all pictures that the import brings in. */
  get pictureCount(): number {
    const { files } = this.installation;
    return (
      files.filter(isGood).length + this.ofKind('changing').length + this.ofKind('same name twice').length / 2
    );
  }

  get failedCount(): number {
    const unknown = this.installation.files.filter(isUnknownKind);
    return this.installation.files.length - this.pictureCount - unknown.length;
  }

  /** The number of files that are listed as pictures, without those that come late. */
  get importable(): number {
    return this.expectedPictures + this.failedCount;
  }

  /** The number of files that the import is done with. */
  async triedSoFar(): Promise<number> {
    const [row] = await this.database.query<{ count: number }[]>(
      `SELECT count(*) FROM chat_image_imports WHERE state IN ('stored', 'failed')`,
    );
    return row?.count ?? 0;
  }

  /** A dry run examines all, and changes nothing. */
  async checkDryRun({ code, output, report }: Ended, clients: Clients): Promise<void> {
    const { findings } = this;
    if (code !== 2) findings.add('commands', `the dry run ended with ${code}:\n${output}`);
    const lines = new Map(report.map((line) => [line.file, line]));
    for (const file of this.installation.files.filter(({ kind }) => kind !== 'changing')) {
      const line = lines.get(file.path);
      if (isGood(file)) findings.same('report', `dry run, ${file.path}`, line?.outcome, 'would be stored');
      else if (file.kind !== 'same name twice') this.checkOdd(file, line);
    }
    const imports = await this.database.query<unknown[]>('SELECT FROM chat_image_imports');
    findings.same('untouched', 'files recorded by the dry run', imports.length, 0);
    await clients.turn();
    const uploaded = new Set(clients.uploaded.map(({ path }) => path));
    const rows = (await this.images()).filter(({ importedAs }) => importedAs !== null);
    findings.same('untouched', 'images of the dry run', rows, []);
    const now = await this.place.snapshot();
    for (const [path, facts] of this.before)
      if (now.get(path) !== facts) findings.add('untouched', `the dry run has changed ${path}.`);
    if (this.place.inPlace) return;
    const objects = (await this.place.objects()).filter((key) => !uploaded.has(key));
    const old = new Set(this.installation.files.map(({ path }) => path));
    findings.same(
      'untouched',
      'objects of the dry run',
      objects.filter((key) => old.has(key)),
      [],
    );
  }

  /** A file that changes while the import works on it is reported, and brought in as it is then. */
  async checkChanging(
    { report }: Ended,
    changes: ReadonlyMap<string, Buffer>,
    changed: readonly string[],
  ): Promise<void> {
    for (const path of changed) {
      const bytes = changes.get(path);
      const line = report.find(({ file }) => file === path);
      const file = this.installation.files.find((old) => old.path === path);
      if (bytes) this.changed.set(path, bytes);
      if (file) this.checkOdd(file, line);
    }
    this.findings.count('files that changed during the import', changed.length);
    return Promise.resolve();
  }

  /** A report of a whole run: a line for each file, each with what it should say. */
  async checkReport({ code, output, report }: Ended): Promise<void> {
    const { findings, place } = this;
    if (code !== 2) findings.add('commands', `the import ended with ${code}:\n${output}`);
    const lines = new Map<string, ReportLine>();
    for (const line of report) {
      // A failed file is tried again in each run, and a line says so once.
      if (lines.has(line.file)) findings.add('report', `two lines for ${line.file}.`);
      lines.set(line.file, line);
    }
    const images = new Set((await this.images()).map(({ path }) => path));
    this.winners.clear();
    for (const file of this.ofKind('same name twice')) if (images.has(file.path)) this.winners.add(file.path);
    findings.same('books', 'winners of names', this.winners.size, this.ofKind('same name twice').length / 2);
    for (const file of this.installation.files) {
      const line = lines.get(file.path);
      lines.delete(file.path);
      if (this.isPicture(file)) {
        if (line?.outcome !== 'stored' && line?.outcome !== 'done before')
          findings.add('report', `${file.path} (${file.kind}): ${JSON.stringify(line)}.`);
      } else {
        this.checkOdd(file, line);
      }
    }
    for (const [path, reason] of this.unknownLines()) {
      const { outcome, reason: said } = lines.get(path) ?? {};
      lines.delete(path);
      findings.same('report', path, [outcome, said], ['unknown', reason]);
    }
    if (place.inPlace) lines.delete('originals/');
    findings.same('report', 'lines of other files', [...lines.values()], []);
  }

  checkVerify({ code, report, output }: Ended, expected: string): void {
    const { findings } = this;
    if (code !== 2) findings.add('commands', `the comparison ended with ${code}:\n${output}`);
    const lines = new Map(report.map(({ file, outcome }) => [file, outcome]));
    for (const file of this.installation.files.filter((old) => !isUnknownKind(old))) {
      const outcome = this.isPicture(file) ? expected : 'not imported: failed';
      findings.same('report', `verify, ${file.path} (${file.kind})`, lines.get(file.path), outcome);
      lines.delete(file.path);
    }
    findings.same('report', 'verify, other files', [...lines], []);
  }

  /** A report about all pictures, with one of these outcomes for each. */
  checkOutcomes({ code, report, output }: Ended, expectedCode: number, outcomes: readonly string[]): void {
    const { findings } = this;
    if (code !== expectedCode) findings.add('commands', `a command ended with ${code}:\n${output}`);
    const lines = new Map(report.map(({ file, outcome }) => [file, outcome]));
    for (const { path } of this.pictures()) {
      const outcome = lines.get(path) ?? 'no line';
      lines.delete(path);
      if (!outcomes.includes(outcome))
        findings.add('report', `${path}: ${outcome}, not ${outcomes.join(' or ')}.`);
    }
    findings.same('report', 'lines of other files', [...lines], []);
  }

  /** After the way back everybody sees the pictures at their old addresses. */
  async checkPublicAgain(clients: Clients): Promise<void> {
    await pLimit(CONCURRENCY).map(this.pictures(), async ({ path, bytes }) => {
      const response = await fetch(`${this.place.legacyUrl}/${path}`);
      const shown = Buffer.from(await response.arrayBuffer());
      if (response.status !== 200)
        this.findings.add('clients', `${path}: ${response.status} after the way back.`);
      else if (!(await clients.isSame(path, shown, bytes)))
        this.findings.add('equal', `${path} is another picture after the way back.`);
    });
  }

  /** The end: all is private, equal, recorded, and nothing else was touched. */
  async balance(clients: Clients, appUrl: string): Promise<void> {
    const { findings, place } = this;
    const pictures: Shown[] = [...this.pictures(), ...clients.uploaded];
    await pLimit(CONCURRENCY).map(pictures, async (picture) => {
      const { path, bytes, conversation } = picture;
      const status = await place.anonymousGet(path, appUrl);
      if (status !== 403) findings.add('private', `${path}: ${status} without credentials.`);
      const old = await fetch(`${place.legacyUrl}/${path}`);
      await old.arrayBuffer();
      if (old.status === 200) findings.add('private', `${path} is still open at its old address.`);
      const stored = await place.readObject(path);
      if (!stored || !(await clients.isSame(path, stored, bytes)))
        findings.add('equal', `${path}: ${stored ? 'another picture' : 'nothing'} is stored.`);
      for (const user of [conversation.patient, conversation.doctor]) {
        const verdict = await clients.readWithToken(picture, user, false);
        if (verdict !== undefined) findings.add('equal', `${path} for the user ${user}: ${verdict}.`);
      }
    });
    findings.count('pictures of the installation at the end', this.pictures().length);
    await this.balanceRows(clients);
    await this.balanceTrails(clients);
    await this.checkUntouched();
  }

  private async balanceRows(clients: Clients): Promise<void> {
    const { findings } = this;
    const rows = await this.images();
    const byPath = new Map(rows.map((row) => [row.path, row]));
    findings.same('books', 'rows', rows.length, byPath.size);
    const expected = new Set([...this.pictures(), ...clients.uploaded].map(({ path }) => path));
    for (const path of expected) if (!byPath.has(path)) findings.add('books', `${path} has no row.`);
    for (const { path, state } of rows) {
      if (!expected.has(path)) findings.add('books', `${path} has a row, and should have none.`);
      findings.same('books', path, state, 'stored');
    }
    for (const { path, sender, knownFrom, mimeType } of this.installation.files.filter((file) =>
      this.isPicture(file),
    )) {
      const row = byPath.get(path);
      const type = this.changed.has(path) ? 'image/png' : mimeType;
      findings.same('books', `${path} (${knownFrom})`, [row?.sender, row?.mimeType], [sender, type]);
      const time =
        knownFrom === 'manifest' ? createdAtOf(path) : new Date(secondsOf(path) * 1000).toISOString();
      findings.same('books', `the time of ${path}`, row?.createdAt.toISOString(), time);
    }
    const known = new Set([...rows.flatMap(objectsOf), ...this.objectsBefore]);
    const objects = await this.place.objects();
    findings.same(
      'books',
      'objects without a row',
      objects.filter((key) => !known.has(key)),
      [],
    );
    const there = new Set(objects);
    findings.same(
      'books',
      'rows without an object',
      [...byPath.keys()].filter((key) => !there.has(key)),
      [],
    );
  }

  /** Each URL has its row: of the user with a token, of the network without one. */
  private async balanceTrails(clients: Clients): Promise<void> {
    const { findings } = this;
    const audits = await this.database.query<{ key: string; count: number }[]>(
      `SELECT accessed_by || ' ' || file_path AS key, count(*) FROM chat_image_access
       JOIN chat_images ON chat_images.id = chat_image_id GROUP BY 1`,
    );
    const counts = new Map(audits.map(({ key, count }) => [key, count]));
    for (const [key, urls] of clients.handedOut)
      findings.same('books', `audit rows of user and picture ${key}`, counts.get(key) ?? 0, urls);
    for (const key of counts.keys())
      if (!clients.handedOut.has(key)) findings.add('books', `an audit row without a URL: ${key}.`);
    const [opens] = await this.database.query<{ shown: number; redirects: number }[]>(
      `SELECT count(chat_image_id) AS shown, count(*) - count(chat_image_id) AS redirects FROM chat_image_link_opens`,
    );
    findings.same('books', 'rows of pictures opened by link', opens, {
      shown: clients.opensByLink,
      redirects: clients.redirects,
    });
  }

  /** All that is not an imported picture is as it was, and nothing has come. */
  private async checkUntouched(): Promise<void> {
    const pictures = new Set(this.pictures().map(({ path }) => path));
    const now = await this.place.snapshot();
    let untouched = 0;
    for (const [path, facts] of this.before) {
      if (pictures.has(path)) continue;
      untouched += 1;
      if (now.get(path) !== facts)
        this.findings.add('untouched', `${path} was "${facts}", and is "${now.get(path) ?? 'gone'}".`);
    }
    this.findings.count('files and folders that were not touched', untouched);
    const ours = new Set((await this.images()).flatMap(objectsOf));
    for (const path of now.keys())
      if (!this.before.has(path) && !(this.place.inPlace && ours.has(path)))
        this.findings.add('untouched', `${path} has come.`);
  }

  /** What the report says of an odd file, with its reason. */
  private checkOdd(file: OldFile, line: ReportLine | undefined): void {
    const outcome = isUnknownKind(file) ? 'unknown' : 'failed';
    if (line?.outcome === outcome && expectedReason(file).test(line.reason ?? ''))
      this.findings.count(`reported: ${file.kind}`);
    else this.findings.add('report', `${file.path} (${file.kind}): ${JSON.stringify(line)}.`);
  }

  private unknownLines(): (readonly [string, string])[] {
    const { inPlace } = this.place;
    const things = this.installation.unknown.map(({ inFolder, inBucket }) => (inPlace ? inBucket : inFolder));
    return inPlace
      ? [...things, [CLIMBING_KEY, 'folder of no conversation']]
      : [...things, [PIPE, 'no file'], [LINKED_FOLDER, 'symbolic link']];
  }

  /** Whether a file is a private picture at the end. */
  private isPicture(file: OldFile): boolean {
    return isGood(file) || file.kind === 'changing' || this.winners.has(file.path);
  }

  /** The private pictures, with the bytes that they should show. */
  private pictures(): Shown[] {
    return this.installation.files
      .filter((file) => this.isPicture(file))
      .map((file) => ({ ...shownOf(file), bytes: this.changed.get(file.path) ?? file.bytes }));
  }

  private ofKind(kind: OldFile['kind']): readonly OldFile[] {
    return this.installation.files.filter((file) => file.kind === kind);
  }

  private images(): Promise<ImageRow[]> {
    return this.database.query<ImageRow[]>(
      `SELECT file_path AS path, state, mime_type AS "mimeType", uploaded_by AS sender, created_at AS "createdAt",
         imported_as AS "importedAs"
       FROM chat_images`,
    );
  }
}

/** The keys of the objects that the service may have for an image. */
const objectsOf = ({ path, mimeType }: ImageRow): string[] => [path, thumbnailKey(path, mimeType)];
