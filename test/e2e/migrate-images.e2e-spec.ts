import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { newFilename } from '../../src/chat-images/entities/chat-image-path.js';
import type { ChatImage } from '../../src/chat-images/entities/chat-image.entity.js';
import type { ReportLine } from '../../src/commands/import-session.js';
import type { ImportOptions } from '../../src/import/image-importer.js';
import type { RemovalOptions } from '../../src/import/source-remover.js';
import type { UploaderOptions } from '../../src/import/uploaders.js';
import { ImportTools } from '../support/import-tools.js';
import { phonePhoto, picture, pixels } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

type Run = { readonly code: number | null; readonly output: string; readonly lines: readonly ReportLine[] };

const OLD_TIME = new Date('2025-11-05T21:50:01Z');

/** Another appointment of the same two, and a text session of the patient with the outsider as doctor. */
const SECOND_APPOINTMENT = 146;
const TEXT_SESSION = 77;

describe('the import of old pictures', () => {
  let test: TestApp;
  let tools: ImportTools;
  /** The sources of all tests. */
  let folder: string;
  let source: string;

  beforeAll(async () => {
    test = await TestApp.start({ MIGRATION_PHASE: '1' });
    await test.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
      SECOND_APPOINTMENT,
      PATIENT,
      DOCTOR,
    ]);
    await test.database.query('INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
      TEXT_SESSION,
      PATIENT,
      OUTSIDER,
    ]);
    tools = await ImportTools.start(environment());
    folder = await mkdtemp(join(tmpdir(), 'chat-image-store-old-'));
  });

  afterAll(async () => {
    await tools.close();
    await test.stop();
    await rm(folder, { recursive: true });
  });

  beforeEach(async () => {
    source = await mkdtemp(join(folder, 'source-'));
    await mkdir(join(source, 'chat_images'));
  });

  /** Runs a command as operators do, on the source of the test. */
  async function command(name: string, ...args: string[]): Promise<Run> {
    const report = join(await mkdtemp(join(tmpdir(), 'chat-image-store-report-')), 'report.ndjson');
    const child = new RunningProcess([`commands/${name}.js`, ...args, '--from', source, '--report', report], {
      env: environment(),
    });
    const code = await child.exit;
    const text = await readFile(report, 'utf8').catch(() => '');
    await rm(dirname(report), { recursive: true });
    const lines = text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as ReportLine);
    return { code, output: child.output, lines };
  }

  const migrate = (
    options: Partial<ImportOptions & UploaderOptions> = {},
    importTools = tools,
  ): Promise<readonly ReportLine[]> => importTools.migrate(source, options);
  const verify = (): Promise<readonly ReportLine[]> => tools.verify(source);
  const deleteSource = (options: Partial<RemovalOptions> = {}): Promise<readonly ReportLine[]> =>
    tools.deleteSource(source, options);
  const rollback = (): Promise<readonly ReportLine[]> => tools.rollback(source);

  function environment(): NodeJS.ProcessEnv {
    return {
      ...TEST_ENVIRONMENT,
      DATABASE_URL: test.settings.database.url,
      LOCAL_STORAGE_DIR: storageFolder(),
      TEXT_SESSIONS: 'true',
    };
  }

  function storageFolder(): string {
    const { storage } = test.settings;
    if (storage.driver !== 'local') throw new Error('The tests need the local driver.');
    return storage.directory;
  }

  /** Writes an old picture. @returns its path in the source */
  async function old(
    bytes: Buffer | string,
    {
      folder = `appointment_${APPOINTMENT}`,
      extension = 'jpg',
      name = newFilename(OLD_TIME, extension),
    } = {},
  ): Promise<string> {
    const path = `chat_images/${folder}/${name}`;
    await mkdir(join(source, dirname(path)), { recursive: true });
    await writeFile(join(source, path), bytes);
    return path;
  }

  const rowOf = async (path: string): Promise<ChatImageRow | undefined> =>
    (
      await test.database.query<ChatImageRow[]>(
        `SELECT id, appointment_id AS "appointmentId", text_session_id AS "textSessionId", uploaded_by AS "uploadedBy",
           imported_as AS "importedAs", created_at AS "createdAt", mime_type AS "mimeType", state
         FROM chat_images WHERE file_path = $1`,
        [path],
      )
    )[0];

  const stored = (path: string): Promise<Buffer> => readFile(join(storageFolder(), 'objects', path));

  const lineOf = (lines: readonly ReportLine[], path: string): ReportLine | undefined =>
    lines.find(({ file }) => file === path);

  it('stores a picture private and cleaned, under its old name, with the time of its name', async () => {
    const photo = await phonePhoto();
    const path = await old(photo);
    const run = await migrate();
    expect(run).toMatchObject([{ file: path, outcome: 'stored', as: 'cleaned' }]);
    expect(await rowOf(path)).toMatchObject({
      appointmentId: APPOINTMENT,
      uploadedBy: PATIENT,
      importedAs: 'cleaned',
      createdAt: OLD_TIME,
      mimeType: 'image/jpeg',
      state: 'stored',
    });
    const bytes = await stored(path);
    expect(bytes.includes('Exif')).toBe(false);
    expect((await pixels(bytes)).equals(await pixels(photo))).toBe(true);
    // The patient and the doctor see it, nobody else does.
    const statuses = await Promise.all(
      [PATIENT, DOCTOR, OUTSIDER].map(async (as) => {
        const response = await test.fetch(`/api/chat-images/${basename(path)}/signed-url`, { as });
        return response.status;
      }),
    );
    expect(statuses).toEqual([200, 200, 403]);
    expect((await readFile(join(source, path))).equals(photo)).toBe(true);
  });

  it('keeps every byte with --keep-bytes', async () => {
    const photo = await phonePhoto();
    const path = await old(photo);
    expect(lineOf(await migrate({ keepBytes: true }), path)).toMatchObject({ outcome: 'stored', as: 'kept' });
    expect((await stored(path)).equals(photo)).toBe(true);
  });

  it('does not take a cut picture with --keep-bytes', async () => {
    const good = await picture('jpeg', 640, 480);
    const path = await old(good.subarray(0, good.length / 2));
    expect(lineOf(await migrate({ keepBytes: true }), path)).toMatchObject({ outcome: 'failed' });
  });

  it('knows names in upper case, with jpeg, and without extension, and takes the type from the bytes', async () => {
    const paths = [
      await old(await picture('jpeg'), { extension: 'JPG' }),
      await old(await picture('jpeg'), { extension: 'jpeg' }),
      await old(await picture('png'), { extension: 'jpg' }),
      await old(await picture('webp'), { name: newFilename(OLD_TIME, 'x').replace('.x', '') }),
    ];
    await migrate();
    expect(await Promise.all(paths.map(async (path) => (await rowOf(path))?.mimeType))).toEqual([
      'image/jpeg',
      'image/jpeg',
      'image/png',
      'image/webp',
    ]);
  });

  it('brings the pictures of text sessions to their text session', async () => {
    const path = await old(await picture('jpeg'), { folder: `text_session_${TEXT_SESSION}` });
    await migrate();
    expect(await rowOf(path)).toMatchObject({ appointmentId: null, textSessionId: TEXT_SESSION });
  });

  it('reports a picture of a text session where text sessions are off', async () => {
    const path = await old(await picture('jpeg'), { folder: `text_session_${TEXT_SESSION}` });
    const without = await ImportTools.start({ ...environment(), TEXT_SESSIONS: 'false' });
    const run = await migrate({}, without);
    await without.close();
    expect(lineOf(run, path)).toMatchObject({
      outcome: 'failed',
      reason: `There is no text session ${TEXT_SESSION}.`,
    });
  });

  it('reports odd files with their reason, and leaves everything else alone', async () => {
    const good = await picture('jpeg', 640, 480);
    const odd = {
      corrupt: await old(good.subarray(0, good.length / 2)),
      empty: await old(''),
      html: await old('<!doctype html><script>1</script>'),
      heic: await old(Buffer.from('\0\0\0\x18ftypheic')),
      nobody: await old(good, { folder: 'appointment_999999' }),
    };
    await symlink(
      '/etc/hostname',
      join(source, 'chat_images', `appointment_${APPOINTMENT}`, '1700000000_ABCDEFGHIJ.jpg'),
    );
    await mkdir(join(source, 'profile_pictures'));
    await writeFile(join(source, 'profile_pictures', newFilename(OLD_TIME, 'jpg')), good);
    await old(good, { name: 'voice message.m4a' });
    await old(good, { folder: 'appointment_0145' });
    const before = await readdir(source, { recursive: true });
    const run = await migrate();
    expect(Object.values(odd).map((path) => lineOf(run, path))).toMatchObject([
      { outcome: 'failed', reason: 'The image is damaged or incomplete.' },
      { outcome: 'failed', reason: 'The file is empty.' },
      { outcome: 'failed', reason: 'An HTML page is not an image.' },
      { outcome: 'failed', reason: 'HEIC images are not supported.' },
      { outcome: 'failed', reason: 'There is no appointment 999999.' },
    ]);
    expect(
      run
        .filter(({ outcome }) => outcome === 'unknown')
        .map(({ reason }) => reason)
        .sort(),
    ).toEqual(['folder of no conversation', 'folder of something else', 'other file name', 'symbolic link']);
    expect(await readdir(source, { recursive: true })).toEqual(before);
    expect(run).toHaveLength(9);
  });

  it('brings a refused picture in with --lenient, and marks its row', async () => {
    const good = await picture('jpeg', 640, 480);
    const half = good.subarray(0, good.length / 2);
    const path = await old(half);
    expect(lineOf(await migrate(), path)?.outcome).toBe('failed');
    expect(lineOf(await migrate({ lenient: true }), path)).toMatchObject({
      outcome: 'stored',
      as: 'unchecked',
    });
    expect(await rowOf(path)).toMatchObject({ importedAs: 'unchecked' });
    expect((await stored(path)).equals(half)).toBe(true);
  });

  it('does not bring in with --lenient what is no picture', async () => {
    const path = await old('<!doctype html><script>1</script>');
    expect(lineOf(await migrate({ lenient: true }), path)?.outcome).toBe('failed');
  });

  it('changes nothing with --dry-run, and tells what it would do', async () => {
    const path = await old(await picture('jpeg'));
    const empty = await old('');
    const run = await migrate({ dryRun: true });
    expect(lineOf(run, path)).toMatchObject({ outcome: 'would be stored', as: 'cleaned' });
    expect(lineOf(run, empty)).toMatchObject({ outcome: 'failed' });
    expect(await rowOf(path)).toBeUndefined();
    await expect(stored(path)).rejects.toThrow('ENOENT');
    expect(await test.database.query('SELECT FROM chat_image_imports WHERE source = $1', [source])).toEqual(
      [],
    );
  });

  it('skips what is done, and does not bring back a picture that was deleted here', async () => {
    const [kept, deleted] = [await old(await picture('jpeg')), await old(await picture('png'))];
    await migrate();
    await test.database.query('DELETE FROM chat_images WHERE file_path = $1', [deleted]);
    const run = await migrate();
    expect([lineOf(run, kept)?.outcome, lineOf(run, deleted)?.outcome]).toEqual([
      'done before',
      'done before',
    ]);
    expect(await rowOf(deleted)).toBeUndefined();
  });

  describe('finds the sender', () => {
    it('in a manifest, with whole addresses and a time, before the default', async () => {
      const [first, second, third] = [
        await old(await picture('jpeg')),
        await old(await picture('jpeg')),
        await old(await picture('jpeg')),
      ];
      const manifest = join(source, 'senders.csv');
      await writeFile(
        manifest,
        `file_path,uploaded_by,created_at\nhttps://old.example.com/storage/${first}?x=1,${DOCTOR},2025-11-06 08:00:00\n${second},${DOCTOR},\n`,
      );
      await migrate({ manifest });
      expect(await rowOf(first)).toMatchObject({
        uploadedBy: DOCTOR,
        createdAt: new Date('2025-11-06T08:00:00Z'),
      });
      expect(await rowOf(second)).toMatchObject({ uploadedBy: DOCTOR, createdAt: OLD_TIME });
      expect(await rowOf(third)).toMatchObject({ uploadedBy: PATIENT });
    });

    it("by a query on the main application's database", async () => {
      const path = await old(await picture('jpeg'));
      await test.database.query(
        `CREATE TABLE IF NOT EXISTS chat_messages (media_url varchar(255), sender_id bigint, created_at timestamp(0))`,
      );
      await test.database.query('INSERT INTO chat_messages VALUES ($1, $2, $3), (NULL, 1, NULL)', [
        `https://cdn.example.com/${path}`,
        DOCTOR,
        '2025-11-05 21:50:09',
      ]);
      const query =
        'SELECT media_url AS file_path, sender_id AS uploaded_by, created_at FROM chat_messages WHERE media_url IS NOT NULL;';
      await migrate({ query, default: undefined });
      expect(await rowOf(path)).toMatchObject({
        uploadedBy: DOCTOR,
        createdAt: new Date('2025-11-05T21:50:09Z'),
      });
    });

    it('and reports a picture whose sender nobody names, or who is no user', async () => {
      const [unnamed, stranger] = [await old(await picture('jpeg')), await old(await picture('jpeg'))];
      const manifest = join(source, 'senders.csv');
      await writeFile(manifest, `file_path,uploaded_by\n${stranger},987654\n`);
      const run = await migrate({ manifest, default: undefined });
      expect(lineOf(run, unnamed)?.reason).toContain('Nobody is known to have sent it');
      expect(lineOf(run, stranger)?.reason).toBe('There is no user 987654, who has sent it.');
    });

    it.each([
      ['file_path,uploaded_by\nx.jpg,first\n', 'Line 2 of the manifest has no user id in uploaded_by.'],
      ['path,user\nx.jpg,1\n', 'Line 2 of the manifest has not the columns file_path and uploaded_by.'],
      ['file_path,uploaded_by\nx.jpg,1\ny/x.jpg,2\n', 'Line 3 of the manifest names another sender of x.jpg'],
      [
        'file_path,uploaded_by,created_at\nx.jpg,1,yesterday\n',
        'Line 2 of the manifest has no time in created_at',
      ],
    ])('and stops at the manifest %j', async (text, message) => {
      const path = await old(await picture('jpeg'));
      const manifest = join(source, 'senders.csv');
      await writeFile(manifest, text);
      await expect(migrate({ manifest })).rejects.toThrow(message);
      expect(await rowOf(path)).toBeUndefined();
    });

    it('and does not let a query write', async () => {
      const query = 'WITH gone AS (DELETE FROM users RETURNING id) SELECT * FROM gone';
      await expect(migrate({ query })).rejects.toThrow('--uploader-query does not run');
      expect(await test.database.query('SELECT FROM users')).not.toHaveLength(0);
    });
  });

  it('reports a name that another picture has, and overwrites nothing', async () => {
    const name = newFilename(OLD_TIME, 'jpg');
    const first = await old(await picture('jpeg'), { name });
    await migrate();
    const second = await old(await picture('jpeg'), { name, folder: `appointment_${SECOND_APPOINTMENT}` });
    const bytes = await stored(first);
    const run = await migrate();
    expect(lineOf(run, second)).toMatchObject({ outcome: 'failed', reason: 'Another image has the name.' });
    expect((await stored(first)).equals(bytes)).toBe(true);
    await expect(stored(second)).rejects.toThrow('ENOENT');
  });

  it('reports a place in the storage that a foreign object has, and overwrites nothing', async () => {
    const path = await old(await picture('jpeg'));
    await mkdir(join(storageFolder(), 'objects', dirname(path)), { recursive: true });
    await writeFile(join(storageFolder(), 'objects', path), 'of somebody else');
    const run = await migrate();
    expect(lineOf(run, path)).toMatchObject({
      outcome: 'failed',
      reason: 'Another object has its place in the storage.',
    });
    expect((await stored(path)).toString()).toBe('of somebody else');
  });

  it('completes the row of the main application, whose sender and time stay', async () => {
    const path = await old(await picture('jpeg'));
    const time = new Date('2025-11-05T21:50:03Z');
    await test.database.query(
      `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, created_at, updated_at)
       VALUES ($1, $2, $3, $4, 1, 'image/jpeg', $5, $5)`,
      [APPOINTMENT, path, basename(path), DOCTOR, time],
    );
    await migrate();
    expect(await rowOf(path)).toMatchObject({ uploadedBy: DOCTOR, createdAt: time, importedAs: 'cleaned' });
    expect((await test.fetch(`/api/chat-images/${basename(path)}/signed-url`, { as: PATIENT })).status).toBe(
      200,
    );
  });

  it('takes at most --limit pictures, and only those since a time', async () => {
    const late = await old(await picture('jpeg'), { name: newFilename(new Date('2026-02-01'), 'jpg') });
    const paths = [late, await old(await picture('jpeg')), await old(await picture('jpeg'))];
    expect(await migrate({ since: new Date('2026-01-01') })).toMatchObject([
      { file: late, outcome: 'stored' },
    ]);
    const limited = await command('migrate-images', '--default-uploader', 'patient', '--limit', '1');
    expect(limited.code).toBe(2);
    expect(limited.output).toContain('1 pictures wait');
    await migrate();
    expect(await Promise.all(paths.map(rowOf))).not.toContain(undefined);
  });

  it('tells a file that vanished, and forgets no picture that failed before', async () => {
    const path = await old('');
    expect(lineOf(await migrate(), path)?.outcome).toBe('failed');
    await rm(join(source, path));
    await migrate();
    const [row] = await test.database.query<unknown[]>(
      'SELECT state, reason FROM chat_image_imports WHERE source = $1',
      [source],
    );
    expect(row).toEqual({ state: 'gone', reason: 'The file is not there any more.' });
    await writeFile(join(source, path), await picture('jpeg'));
    expect(lineOf(await migrate(), path)?.outcome).toBe('stored');
  });

  it('imports each picture once in four runs at the same time', async () => {
    const paths = await Promise.all(Array.from({ length: 40 }, async () => old(await picture('jpeg'))));
    const args = ['--default-uploader', 'patient', '--concurrency', '3'];
    const runs = await Promise.all(Array.from({ length: 4 }, () => command('migrate-images', ...args)));
    const storedLines = runs.flatMap(({ lines }) => lines.filter(({ outcome }) => outcome === 'stored'));
    expect(storedLines.map(({ file }) => file).sort()).toEqual(paths.sort());
  });

  it('keeps every object when two places of the same pictures are imported at the same time', async () => {
    const pictures = await Promise.all(
      Array.from({ length: 40 }, async () => ({
        bytes: await picture('jpeg'),
        name: newFilename(OLD_TIME, 'jpg'),
      })),
    );
    const first = source;
    for (const { bytes, name } of pictures) await old(bytes, { name });
    const second = await mkdtemp(join(folder, 'source-'));
    await cp(first, second, { recursive: true });
    // Each call opens the source before its first pause.
    source = first;
    const one = migrate({ concurrency: 3 });
    source = second;
    const lines = (await Promise.all([one, migrate({ concurrency: 3 })])).flat();
    expect(new Set(lines.map(({ outcome }) => outcome))).toEqual(new Set(['stored']));
    for (const { name } of pictures)
      expect((await stored(`chat_images/appointment_${APPOINTMENT}/${name}`)).length).toBeGreaterThan(0);
  });

  it('does the rest after kill -9, and leaves no pending row', async () => {
    const paths = await Promise.all(
      Array.from({ length: 60 }, async () => old(await picture('jpeg', 900, 700))),
    );
    const child = new RunningProcess(
      [
        'commands/migrate-images.js',
        '--from',
        source,
        '--default-uploader',
        'patient',
        '--concurrency',
        '2',
        '--report',
        join(source, 'report.ndjson'),
      ],
      {
        env: {
          ...TEST_ENVIRONMENT,
          DATABASE_URL: test.settings.database.url,
          LOCAL_STORAGE_DIR: storageFolder(),
        },
      },
    );
    const done = async (): Promise<number> =>
      (
        await test.database.query<unknown[]>(
          `SELECT FROM chat_image_imports WHERE source = $1 AND state = 'stored'`,
          [source],
        )
      ).length;
    while ((await done()) < 6) await new Promise((go) => setImmediate(go));
    child.signal('SIGKILL');
    await child.exit;
    expect(await done()).toBeLessThan(paths.length);
    await migrate();
    expect(await done()).toBe(paths.length);
    expect(await test.database.query(`SELECT FROM chat_images WHERE state <> 'stored'`)).toEqual([]);
  });

  it.each([
    [[], 'Usage: npm run migrate:images'],
    [['--default-uploader', 'patient', '--since', 'yesterday'], 'Usage: npm run migrate:images'],
    [
      ['--default-uploader', 'patient', '--keep-original-under', 'chat_images/x'],
      '--keep-original-under must be a prefix',
    ],
  ])('refuses the arguments %j', async (args, message) => {
    const run = await command('migrate-images', ...args);
    expect(run.code).toBe(1);
    expect(run.output).toContain(message);
  });

  it("refuses a folder without chat_images, and the storage's own folder", async () => {
    await rm(join(source, 'chat_images'), { recursive: true });
    await expect(migrate()).rejects.toThrow('has no folder chat_images');
    source = join(storageFolder(), 'objects');
    await expect(migrate()).rejects.toThrow("--from leads to this service's own storage");
  });

  describe('and what comes after it', () => {
    it('compares both sides: what is equal, what has come since, what was changed', async () => {
      const [equal, changed, lost] = [
        await old(await picture('jpeg')),
        await old(await picture('jpeg')),
        await old(await picture('jpeg')),
      ];
      await migrate();
      expect(new Set((await verify()).map(({ outcome }) => outcome))).toEqual(new Set(['the same in both']));
      await writeFile(join(source, changed), await picture('png'));
      await rm(join(storageFolder(), 'objects', lost));
      const late = await old(await picture('jpeg'));
      const run = await verify();
      expect([equal, changed, lost, late].map((path) => lineOf(run, path)?.outcome)).toEqual([
        'the same in both',
        'changed in the source since the import',
        'missing in the storage',
        'new in the source since the import',
      ]);
    });

    it('deletes from the source only what is stored and verified, and only after a yes', async () => {
      const [good, changed, lost] = [
        await old(await picture('jpeg')),
        await old(await picture('jpeg')),
        await old(await picture('jpeg')),
      ];
      const failed = await old('');
      await migrate();
      await writeFile(join(source, changed), await picture('png'));
      await writeFile(join(storageFolder(), 'objects', lost), 'other bytes');
      const tooEarly = await command('migrate-delete-source', '--yes');
      expect(tooEarly.output).toContain(': 0 pictures');
      const unasked = await command('migrate-delete-source', '--grace', '0s');
      expect(unasked.code).toBe(1);
      expect(unasked.output).toContain('Nothing was done: nobody can be asked here');
      const run = await command('migrate-delete-source', '--grace', '0s', '--yes');
      expect(run.code).toBe(2);
      expect([good, changed, lost].map((path) => lineOf(run.lines, path)?.outcome)).toEqual([
        'deleted',
        'kept: it has changed since the import',
        'kept: the storage has not what was stored',
      ]);
      expect((await readdir(join(source, dirname(good)))).sort()).toEqual(
        [changed, lost, failed].map((path) => basename(path)).sort(),
      );
    });

    it('does not close the files of a folder', async () => {
      await old(await picture('jpeg'));
      await migrate();
      await expect(deleteSource({ makePrivate: true })).rejects.toThrow('--make-private is for buckets');
    });

    it('puts deleted pictures back, keeps the images and their trail here, and imports again', async () => {
      const [path, other] = [await old(await picture('jpeg')), await old(await picture('jpeg'))];
      await migrate();
      await test.fetch(`/api/chat-images/${basename(path)}/signed-url`, { as: PATIENT });
      await deleteSource({ limit: 1 });
      const run = await rollback();
      expect(run.map(({ outcome }) => outcome).sort()).toEqual(['put back', 'still there']);
      for (const each of [path, other])
        expect(
          (await pixels(await readFile(join(source, each)))).equals(await pixels(await stored(each))),
        ).toBe(true);
      expect(
        await test.database.query(
          'SELECT FROM chat_image_access JOIN chat_images ON chat_images.id = chat_image_id WHERE file_path = $1',
          [path],
        ),
      ).toHaveLength(1);
      await migrate();
      expect(new Set((await verify()).map(({ outcome }) => outcome))).toEqual(new Set(['the same in both']));
    });

    it('does not write over a file that has taken the place of a picture', async () => {
      const path = await old(await picture('jpeg'));
      await migrate();
      await deleteSource();
      await writeFile(join(source, path), 'of somebody else');
      const run = await command('migrate-rollback', '--public', '--yes');
      expect(run.code).toBe(2);
      expect(lineOf(run.lines, path)?.outcome).toBe('not put back: another file has its place');
      expect(await readFile(join(source, path), 'utf8')).toBe('of somebody else');
    });
  });

  it('reports a file that it may not read', async () => {
    const path = await old(await picture('jpeg'));
    await rm(join(source, path));
    // A folder with the name of a picture, which nobody can read as a file, whatever the rights of the process.
    await mkdir(join(source, path));
    const other = await old(await picture('jpeg'));
    if (process.getuid?.() !== 0) await chmod(join(source, other), 0);
    const run = await migrate();
    expect(lineOf(run, `${path}/`)).toMatchObject({ outcome: 'unknown', reason: 'no file' });
    expect(lineOf(run, other)?.outcome).toBe(process.getuid?.() === 0 ? 'stored' : 'failed');
  });
});

type ChatImageRow = Pick<
  ChatImage,
  'id' | 'appointmentId' | 'textSessionId' | 'uploadedBy' | 'importedAs' | 'createdAt' | 'mimeType' | 'state'
>;
