import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { tmpdir } from 'node:os';
import { DataSource } from 'typeorm';
import { loadDatabaseSettings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { type EmbeddedDatabase, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { TableMismatchError } from '../../src/database/existing-tables.js';
import { migrateDown, migrateUp, MigrationLockedError } from '../../src/database/migrate.js';
import { LARAVEL_TABLES } from '../support/laravel-tables.js';
import { RunningProcess } from '../support/run-process.js';
import { DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

/** The INSERT of the main application, as Eloquent writes it. */
const LARAVEL_INSERT = `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, created_at, updated_at)
  VALUES (145, 'chat_images/appointment_145/1762379999_LaravelNew.jpg', '1762379999_LaravelNew.jpg', 1, 77, 'image/jpeg',
          '2025-11-05 21:59:59', '2025-11-05 21:59:59') RETURNING id`;

describe('the tables chat_images and chat_image_access of the main application', () => {
  let postgres: EmbeddedDatabase;

  beforeAll(async () => {
    postgres = await startEmbeddedPostgres('throwaway');
  });

  afterAll(() => postgres.stop());

  async function withDatabase<T>(name: string, work: (dataSource: DataSource) => Promise<T>): Promise<T> {
    const settings = loadDatabaseSettings({ DATABASE_URL: await postgres.database(name) });
    const dataSource = await new DataSource(dataSourceOptions(settings, ENTITIES)).initialize();
    try {
      return await work(dataSource);
    } finally {
      await dataSource.destroy();
    }
  }

  /** All of the two tables that a migration down must restore. */
  const snapshot = async (dataSource: DataSource): Promise<unknown> => ({
    columns: await dataSource.query<unknown>(
      `SELECT table_name, column_name, data_type, datetime_precision, character_maximum_length, is_nullable, column_default
       FROM information_schema.columns WHERE table_name IN ('chat_images', 'chat_image_access') ORDER BY 1, 2`,
    ),
    constraints: await dataSource.query<unknown>(
      `SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
       WHERE conrelid IN ('chat_images'::regclass, 'chat_image_access'::regclass) AND contype IN ('f', 'p') ORDER BY 1`,
    ),
    indexes: await dataSource.query<unknown>(
      `SELECT indexdef FROM pg_indexes WHERE tablename IN ('chat_images', 'chat_image_access') ORDER BY 1`,
    ),
    triggers: await dataSource.query<unknown>(
      `SELECT tgname FROM pg_trigger WHERE tgrelid = 'chat_images'::regclass AND NOT tgisinternal`,
    ),
    images: await dataSource.query<unknown>(
      'SELECT to_jsonb(chat_images) AS row FROM chat_images ORDER BY id',
    ),
    accesses: await dataSource.query<unknown>(
      'SELECT id, chat_image_id, accessed_by, accessed_at::text FROM chat_image_access ORDER BY id',
    ),
  });

  it.each(['UTC', 'Etc/UTC'])(
    'are adopted with their rows, and restored on the way down, in time zone %s',
    async (zone) => {
      await withDatabase(`adopted-${zone}`, async (dataSource) => {
        await dataSource.query(
          `ALTER DATABASE ${dataSource.driver.escape(`adopted-${zone}`)} SET timezone TO '${zone}'`,
        );
        await dataSource.query(LARAVEL_TABLES);
        const before = await snapshot(dataSource);
        for (let round = 0; round < 2; round += 1) {
          expect((await migrateUp(dataSource)).length).toBeGreaterThan(0);
          const { upQueries } = await dataSource.driver.createSchemaBuilder().log();
          expect(upQueries.map(({ query }) => query)).toEqual([]);
          const rows = await dataSource.query<unknown>(
            `SELECT state, created_at AT TIME ZONE 'UTC' = timestamp '2025-11-05 21:50:01' AS same FROM chat_images WHERE id = 1`,
          );
          expect(rows).toEqual([{ state: 'stored', same: true }]);
          while ((await migrateDown(dataSource)).length > 0);
          expect(await snapshot(dataSource)).toEqual(before);
        }
      });
    },
  );

  it('get a missing created_at from the file name', async () => {
    await withDatabase('timeless', async (dataSource) => {
      await dataSource.query(LARAVEL_TABLES);
      await dataSource.query('UPDATE chat_images SET created_at = NULL, updated_at = NULL WHERE id = 1');
      await migrateUp(dataSource);
      expect(
        await dataSource.query<unknown>(
          'SELECT extract(epoch FROM created_at)::bigint AS time FROM chat_images WHERE id = 1',
        ),
      ).toEqual([{ time: 1762379401 }]);
      await dataSource.query('UPDATE chat_images SET updated_at = NULL');
      await dataSource.query(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, created_at, updated_at)
         VALUES (145, 'p', 'f', 1, 1, 'image/png', NULL, NULL)`,
      );
      expect(
        await dataSource.query<unknown>(
          'SELECT FROM chat_images WHERE created_at IS NULL OR updated_at IS NULL',
        ),
      ).toEqual([]);
    });
  });

  const differences: [name: string, change: string, lines: readonly RegExp[]][] = [
    [
      'a missing column',
      'ALTER TABLE chat_images DROP COLUMN mime_type',
      [/^chat_images\.mime_type is missing: it should be character varying\(255\) NOT NULL$/],
    ],
    [
      'a column of another type',
      'ALTER TABLE chat_images ALTER size TYPE bigint',
      [/^chat_images\.size is bigint NOT NULL: it should be integer NOT NULL$/],
    ],
    [
      'a nullable column',
      'ALTER TABLE chat_images ALTER filename DROP NOT NULL',
      [/^chat_images\.filename is character varying\(255\) NULL: /],
    ],
    [
      'times with a time zone',
      'ALTER TABLE chat_image_access ALTER accessed_at TYPE timestamptz',
      [/^chat_image_access\.accessed_at is timestamp with time zone NOT NULL: /],
    ],
    [
      'an unknown column that needs a value',
      'ALTER TABLE chat_images ADD COLUMN kind integer NOT NULL DEFAULT 1; ALTER TABLE chat_images ALTER kind DROP DEFAULT',
      [/^chat_images\.kind is not known here and needs a value/],
    ],
    [
      'soft-deleted rows',
      'ALTER TABLE chat_images ADD COLUMN deleted_at timestamp(0)',
      [/^chat_images\.deleted_at marks rows as deleted/],
    ],
    [
      'a missing foreign key',
      'ALTER TABLE chat_images DROP CONSTRAINT chat_images_uploaded_by_foreign',
      [/^chat_images has no constraint chat_images_uploaded_by_foreign/],
    ],
    [
      'a foreign key that does not cascade',
      'ALTER TABLE chat_image_access DROP CONSTRAINT chat_image_access_accessed_by_foreign, ADD CONSTRAINT chat_image_access_accessed_by_foreign FOREIGN KEY (accessed_by) REFERENCES users (id)',
      [/^chat_image_access has the constraint chat_image_access_accessed_by_foreign as /],
    ],
    [
      'a missing index',
      'DROP INDEX chat_images_appointment_id_created_at_index',
      [/^chat_images has no index chat_images_appointment_id_created_at_index on/],
    ],
    [
      'an id without a sequence',
      'ALTER TABLE chat_images ALTER id DROP DEFAULT',
      [/^chat_images\.id has no default/],
    ],
    [
      'repeated file names',
      `UPDATE chat_images SET filename = 'a.jpg'`,
      [/^chat_images has 2 rows whose filename another row has/],
    ],
    [
      'times that are not in UTC',
      `UPDATE chat_images SET created_at = created_at + interval '2 hours'`,
      [/^chat_images\.created_at is 7200 seconds off/],
    ],
    [
      'two differences in a table',
      'ALTER TABLE chat_images DROP COLUMN size, ALTER filename DROP NOT NULL',
      [/^chat_images\.filename/, /^chat_images\.size/],
    ],
    [
      'differences in two tables',
      'ALTER TABLE chat_images DROP COLUMN size; ALTER TABLE chat_image_access ALTER accessed_at DROP NOT NULL',
      [/^chat_images\.size/, /^chat_image_access\.accessed_at/],
    ],
  ];

  it.each(differences)(
    'are refused for %s: a line names it, and nothing is changed',
    async (name, change, lines) => {
      await withDatabase(`odd: ${name}`.slice(0, 60), async (dataSource) => {
        await dataSource.query(LARAVEL_TABLES);
        await dataSource.query(change);
        const before = await snapshot(dataSource);
        const error: unknown = await migrateUp(dataSource).catch((reason: unknown) => reason);
        if (!(error instanceof TableMismatchError)) throw error;
        expect(error.differences).toEqual(lines.map((line) => expect.stringMatching(line)));
        expect(await snapshot(dataSource)).toEqual(before);
        expect(
          await dataSource.query<unknown>(`SELECT to_regclass('chat_image_adopted_tables')::text AS found`),
        ).toEqual([{ found: null }]);
      });
    },
  );

  it('are refused in a database with a time zone other than UTC', async () => {
    await withDatabase('elsewhere', async (dataSource) => {
      await dataSource.query(LARAVEL_TABLES);
      await dataSource.query(`ALTER DATABASE elsewhere SET timezone TO 'Europe/London'`);
    });
    await withDatabase('elsewhere', async (dataSource) => {
      await expect(migrateUp(dataSource)).rejects.toThrow(/^the time zone of the database is Europe\/London/);
    });
  });

  it('are refused by npm run migrate with one line per difference', async () => {
    const url = await withDatabase('printed', async (dataSource) => {
      await dataSource.query(LARAVEL_TABLES);
      await dataSource.query('ALTER TABLE chat_images DROP COLUMN size, ALTER filename DROP NOT NULL');
      return postgres.database('printed');
    });
    const child = new RunningProcess(['commands/migrate.js'], { env: { DATABASE_URL: url }, cwd: tmpdir() });
    expect(await child.exit).toBe(1);
    expect(child.output).toMatch(
      /^Nothing was migrated: [^\n]+\nchat_images\.filename [^\n]+\nchat_images\.size [^\n]+\n$/,
    );
  });

  it('may have unknown nullable columns, and chat_image_access may be missing', async () => {
    await withDatabase('more', async (dataSource) => {
      await dataSource.query(LARAVEL_TABLES);
      await dataSource.query('ALTER TABLE chat_images ADD COLUMN note text; DROP TABLE chat_image_access');
      await migrateUp(dataSource);
      while ((await migrateDown(dataSource)).length > 0);
      expect(await dataSource.query<unknown>('SELECT count(*) AS rows FROM chat_images')).toEqual([
        { rows: 3 },
      ]);
      expect(
        await dataSource.query<unknown>(`SELECT to_regclass('chat_image_access')::text AS found`),
      ).toEqual([{ found: null }]);
    });
  });

  it('still work for the main application, whose deletes leave no tombstones', async () => {
    const test = await TestApp.start({}, [LARAVEL_TABLES]);
    try {
      const [{ id } = { id: 0 }] = await test.database.query<{ id: number }[]>(LARAVEL_INSERT);
      for (const image of [1, id]) {
        for (const [as, status] of [
          [PATIENT, 200],
          [DOCTOR, 200],
          [OUTSIDER, 403],
        ] as const) {
          const response = await test.fetch(`/api/chat-images/${image}/signed-url`, { as });
          expect([image, as, response.status]).toEqual([image, as, status]);
        }
      }
      const { data } = (await (await test.fetch(`/api/chat-images/${id}`, { as: DOCTOR })).json()) as {
        data: object;
      };
      expect(data).toMatchObject({
        id,
        name: '1762379999_LaravelNew.jpg',
        created_at: '2025-11-05T21:59:59.000000Z',
        mime_type: 'image/jpeg',
      });
      await test.database.query(
        'INSERT INTO chat_image_access (chat_image_id, accessed_by, accessed_at) VALUES ($1, 2, $2)',
        [id, '2025-11-05 22:00:00'],
      );
      await test.database.query('DELETE FROM chat_images');
      expect(await test.database.query('SELECT FROM chat_image_tombstones')).toEqual([]);
    } finally {
      await test.stop();
    }
  });

  it('may hold rows with impossible paths, which are answered 404 without an audit row', async () => {
    const test = await TestApp.start({}, [LARAVEL_TABLES]);
    try {
      const paths = [
        '/chat_images/a.jpg',
        'a/../b.jpg',
        '',
        'a//b.jpg',
        'a\\b.jpg',
        'a\u0007.jpg',
        'a\u0085.jpg',
        `${'é'.repeat(200)}.jpg`,
        '.',
      ];
      const rows = await test.database.query<{ id: number }[]>(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type)
         SELECT 145, path, 'odd' || position || '.jpg', 1, 5, 'image/jpeg'
         FROM unnest($1::text[]) WITH ORDINALITY AS odd (path, position) RETURNING id`,
        [paths],
      );
      for (const name of [...rows.map(({ id }) => id), 'odd1.jpg']) {
        const response = await test.fetch(`/api/chat-images/${name}/signed-url`, { as: DOCTOR });
        expect([name, response.status]).toEqual([name, 404]);
      }
      const batch = await test.fetch('/api/chat-images/signed-urls', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ids: [1, ...rows.map(({ id }) => id)] }),
        as: DOCTOR,
      });
      expect(batch.status).toBe(200);
      const { data } = (await batch.json()) as { data: { url?: string; error_code?: string }[] };
      expect(data.map(({ error_code: code }) => code)).toEqual([
        undefined,
        ...rows.map(() => 'IMAGE_NOT_FOUND'),
      ]);
      const list = await test.fetch('/api/appointments/145/chat-images?signed_urls=true', { as: DOCTOR });
      expect(list.status).toBe(200);
      const trail = await test.database.query<unknown>(
        'SELECT DISTINCT chat_image_id AS id FROM chat_image_access ORDER BY 1',
      );
      expect(trail).toEqual([{ id: 1 }, { id: 2 }, { id: 3 }]);
    } finally {
      await test.stop();
    }
  });

  it('delay a migration while another transaction locks them, until a timeout names it', async () => {
    await withDatabase('held', async (dataSource) => {
      await dataSource.query(LARAVEL_TABLES);
      const holder = dataSource.createQueryRunner();
      await holder.startTransaction();
      await holder.query(`SET LOCAL application_name = 'the main application'`);
      await holder.query('LOCK TABLE chat_images');
      const told: string[] = [];
      const waiting = migrateUp(dataSource, { maxWaitMs: 100, onWait: (holders) => told.push(holders) });
      await expect(waiting).rejects.toThrow(
        /Held by process \d+ of the role postgres \(the main application\), in a transaction since /,
      );
      await expect(waiting).rejects.toBeInstanceOf(MigrationLockedError);
      expect(told).toHaveLength(1);
      const later = migrateUp(dataSource, { onWait: () => void holder.rollbackTransaction() });
      expect((await later).length).toBeGreaterThan(0);
      await holder.release();
    });
  });
});
