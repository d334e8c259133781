import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { loadDatabaseSettings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { type EmbeddedDatabase, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { DataLossError } from '../../src/database/data-loss.js';
import { migrateDown, migrateUp } from '../../src/database/migrate.js';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { picture } from '../support/pictures.js';
import { TestApp } from '../support/test-app.js';

const OWN_TABLES = ['chat_image_access', 'chat_images'];

describe('the migrations', () => {
  let postgres: EmbeddedDatabase;

  beforeAll(async () => {
    postgres = await startEmbeddedPostgres('throwaway');
  });

  afterAll(() => postgres.stop());

  async function withDatabase(name: string, work: (dataSource: DataSource) => Promise<void>): Promise<void> {
    const settings = loadDatabaseSettings({ DATABASE_URL: await postgres.database(name) });
    const dataSource = await new DataSource(dataSourceOptions(settings, ENTITIES)).initialize();
    try {
      await work(dataSource);
    } finally {
      await dataSource.destroy();
    }
  }

  const tables = async (dataSource: DataSource): Promise<string[]> =>
    (
      await dataSource.query<{ tablename: string }[]>(
        `SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename`,
      )
    ).map(({ tablename }) => tablename);

  const sessionKeys = (dataSource: DataSource): Promise<unknown[]> =>
    dataSource.query<unknown[]>(
      `SELECT FROM pg_constraint WHERE conrelid = 'chat_images'::regclass AND confrelid = 'text_sessions'::regclass`,
    );

  const downToNothing = async (dataSource: DataSource): Promise<void> => {
    while ((await migrateDown(dataSource)).length > 0);
  };

  it('run up, down and up again on an empty database', async () => {
    await withDatabase('empty', async (dataSource) => {
      const names = await migrateUp(dataSource);
      expect(names.length).toBeGreaterThan(0);
      expect(await tables(dataSource)).toEqual([
        'appointments',
        'chat_image_access',
        'chat_image_adopted_tables',
        'chat_image_imports',
        'chat_image_link_opens',
        'chat_image_migrations',
        'chat_image_tombstones',
        'chat_image_upkeep_tasks',
        'chat_image_upload_keys',
        'chat_images',
        'text_sessions',
        'users',
      ]);
      expect(await migrateUp(dataSource)).toEqual([]);
      await downToNothing(dataSource);
      expect((await tables(dataSource)).filter((name) => OWN_TABLES.includes(name))).toEqual([]);
      expect(await migrateUp(dataSource)).toEqual(names);
    });
  });

  it('create the tables as the specification describes them', async () => {
    await withDatabase('described', async (dataSource) => {
      await migrateUp(dataSource);
      const constraints = await dataSource.query<unknown>(
        `SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint
         WHERE conrelid IN ('chat_images'::regclass, 'chat_image_access'::regclass) AND contype IN ('f', 'p') ORDER BY conname`,
      );
      expect(constraints).toEqual([
        {
          name: 'chat_image_access_accessed_by_foreign',
          definition: 'FOREIGN KEY (accessed_by) REFERENCES users(id) ON DELETE CASCADE',
        },
        {
          name: 'chat_image_access_chat_image_id_foreign',
          definition: 'FOREIGN KEY (chat_image_id) REFERENCES chat_images(id) ON DELETE CASCADE',
        },
        { name: 'chat_image_access_pkey', definition: 'PRIMARY KEY (id)' },
        {
          name: 'chat_images_appointment_id_foreign',
          definition: 'FOREIGN KEY (appointment_id) REFERENCES appointments(id) ON DELETE CASCADE',
        },
        { name: 'chat_images_pkey', definition: 'PRIMARY KEY (id)' },
        {
          name: 'chat_images_text_session_id_foreign',
          definition: 'FOREIGN KEY (text_session_id) REFERENCES text_sessions(id) ON DELETE CASCADE',
        },
        {
          name: 'chat_images_uploaded_by_foreign',
          definition: 'FOREIGN KEY (uploaded_by) REFERENCES users(id) ON DELETE CASCADE',
        },
      ]);
      const indexes = await dataSource.query<{ indexdef: string }[]>(
        `SELECT indexdef FROM pg_indexes WHERE tablename IN ('chat_images', 'chat_image_access')`,
      );
      const definitions = indexes.map(({ indexdef }) => indexdef).join('\n');
      expect(definitions).toContain('ON public.chat_images USING btree (appointment_id, created_at)');
      expect(definitions).toContain('ON public.chat_image_access USING btree (chat_image_id, accessed_at)');
      const required = await dataSource.query<unknown>(
        `SELECT table_name || '.' || column_name AS name, data_type AS type FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name IN ('chat_images', 'chat_image_access')
           AND is_nullable = 'NO' AND column_default IS NULL ORDER BY 1`,
      );
      // Every column that this service has added has a default or is nullable.
      expect(required).toEqual([
        { name: 'chat_image_access.accessed_by', type: 'bigint' },
        { name: 'chat_image_access.chat_image_id', type: 'bigint' },
        { name: 'chat_images.file_path', type: 'character varying' },
        { name: 'chat_images.filename', type: 'character varying' },
        { name: 'chat_images.mime_type', type: 'character varying' },
        { name: 'chat_images.size', type: 'integer' },
        { name: 'chat_images.uploaded_by', type: 'bigint' },
      ]);
    });
  });

  it("leave the main application's tables and rows untouched, up and down", async () => {
    await withDatabase('laravel', async (dataSource) => {
      await dataSource.query<unknown>(`
        CREATE TABLE users (
          id bigserial PRIMARY KEY, first_name varchar(255) NOT NULL, last_name varchar(255) NOT NULL,
          email varchar(255) NOT NULL UNIQUE, email_verified_at timestamp(0) without time zone,
          password varchar(255) NOT NULL, user_type varchar(255) NOT NULL DEFAULT 'patient', rating numeric(3, 2),
          push_notifications_enabled boolean NOT NULL DEFAULT true, remember_token varchar(100),
          created_at timestamp(0) without time zone, updated_at timestamp(0) without time zone
        );
        CREATE TABLE appointments (
          id bigserial PRIMARY KEY, patient_id bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
          doctor_id bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
          appointment_date date, appointment_time time(0) without time zone, appointment_type varchar(255),
          status smallint NOT NULL DEFAULT 0, reason text, sessions_deducted integer NOT NULL DEFAULT 0,
          created_at timestamp(0) without time zone, updated_at timestamp(0) without time zone
        );
        CREATE INDEX appointments_status_index ON appointments (status);
        INSERT INTO users (id, first_name, last_name, email, password, created_at)
          SELECT n, 'f' || n, 'l' || n, n || '@example.com', 'x', '2025-01-01' FROM generate_series(1, 500) n;
        INSERT INTO appointments (id, patient_id, doctor_id, reason, created_at)
          SELECT n, 1 + n % 400, 401 + n % 100, 'r' || n, '2025-01-02' FROM generate_series(1, 2000) n;
      `);
      const snapshot = async (): Promise<unknown> => ({
        columns: await dataSource.query<unknown>(
          `SELECT table_name, column_name, data_type, datetime_precision, is_nullable, column_default
           FROM information_schema.columns WHERE table_name IN ('users', 'appointments') ORDER BY 1, ordinal_position`,
        ),
        indexes: await dataSource.query<unknown>(
          `SELECT indexdef FROM pg_indexes WHERE tablename IN ('users', 'appointments') ORDER BY 1`,
        ),
        rows: await dataSource.query<unknown>(
          `SELECT (SELECT md5(string_agg(u::text, ',' ORDER BY id)) FROM users u) AS users,
                  (SELECT md5(string_agg(a::text, ',' ORDER BY id)) FROM appointments a) AS appointments`,
        ),
      });
      const before = await snapshot();
      await migrateUp(dataSource);
      expect(await snapshot()).toEqual(before);
      await downToNothing(dataSource);
      expect(await snapshot()).toEqual(before);
      await migrateUp(dataSource);
      expect(await snapshot()).toEqual(before);
    });
  });

  it('leave a text_sessions of the main application untouched, and refer to it', async () => {
    await withDatabase('sessions', async (dataSource) => {
      await dataSource.query(`
        CREATE TABLE text_sessions (
          id bigserial PRIMARY KEY, patient_id bigint NOT NULL, doctor_id bigint NOT NULL, status varchar(255) NOT NULL,
          sessions_used integer NOT NULL DEFAULT 0, created_at timestamp(0) without time zone
        );
        CREATE INDEX text_sessions_status_index ON text_sessions (status);
        INSERT INTO text_sessions (id, patient_id, doctor_id, status) VALUES (147, 1, 2, 'active');
      `);
      const snapshot = async (): Promise<unknown> => [
        await dataSource.query('SELECT * FROM text_sessions'),
        await dataSource.query(
          `SELECT indexdef FROM pg_indexes WHERE tablename = 'text_sessions' ORDER BY 1`,
        ),
        await dataSource.query(
          `SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns
           WHERE table_name = 'text_sessions' ORDER BY ordinal_position`,
        ),
      ];
      const before = await snapshot();
      await migrateUp(dataSource);
      expect(await snapshot()).toEqual(before);
      expect(await sessionKeys(dataSource)).toHaveLength(1);
      await downToNothing(dataSource);
      expect(await snapshot()).toEqual(before);
    });
  });

  it.each([
    [
      'has no whole number as id',
      'CREATE TABLE text_sessions (id uuid PRIMARY KEY, patient_id bigint, doctor_id bigint)',
    ],
    ['has no unique id', 'CREATE TABLE text_sessions (id bigint, patient_id bigint, doctor_id bigint)'],
    ['has no id', 'CREATE TABLE text_sessions (number bigint PRIMARY KEY)'],
  ])('run without a foreign key where text_sessions %s', async (name, table) => {
    await withDatabase(name.replaceAll(' ', '_'), async (dataSource) => {
      await dataSource.query(table);
      const names = await migrateUp(dataSource);
      expect(names).toContain('TextSessions1766000000000');
      expect(await sessionKeys(dataSource)).toEqual([]);
      await downToNothing(dataSource);
      expect(await migrateUp(dataSource)).toEqual(names);
    });
  });

  it('do not drop pictures of text sessions on the way down without --yes-drop-data', async () => {
    await withDatabase('session_pictures', async (dataSource) => {
      await migrateUp(dataSource);
      await dataSource.query(`
        INSERT INTO users (id) VALUES (1), (2);
        INSERT INTO appointments (id, patient_id, doctor_id) VALUES (147, 1, 2);
        INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (147, 1, 2);
        INSERT INTO chat_images (id, appointment_id, text_session_id, file_path, filename, uploaded_by, size, mime_type)
          VALUES (1, 147, NULL, 'a', 'a', 1, 1, 'image/png'), (2, NULL, 147, 'b', 'b', 1, 1, 'image/png');
      `);
      const ids = (): Promise<unknown> => dataSource.query('SELECT id::int FROM chat_images ORDER BY id');
      const downTo = async (name: string): Promise<unknown> => {
        for (;;) {
          const [newest] = await dataSource.query<{ name: string }[]>(
            'SELECT name FROM chat_image_migrations ORDER BY timestamp DESC LIMIT 1',
          );
          if (newest?.name === name) return migrateDown(dataSource).catch((error: unknown) => error);
          await migrateDown(dataSource);
        }
      };
      const refusal = await downTo('TextSessions1766000000000');
      expect(refusal).toBeInstanceOf(DataLossError);
      expect((refusal as DataLossError).losses).toEqual([{ of: 'chat_images.text_session_id', count: 1 }]);
      expect(await ids()).toEqual([{ id: 1 }, { id: 2 }]);
      expect(await migrateDown(dataSource, { dropData: true })).toEqual(['TextSessions1766000000000']);
      expect(await ids()).toEqual([{ id: 1 }]);
      expect(await dataSource.query('SELECT id::int FROM text_sessions')).toEqual([{ id: 147 }]);
      await migrateUp(dataSource);
      expect(await ids()).toEqual([{ id: 1 }]);
    });
  });

  it('add thumbnails to rows that are there, and leave tombstones of them on the way down', async () => {
    await withDatabase('thumbnails', async (dataSource) => {
      await migrateUp(dataSource);
      const images = (): Promise<unknown> =>
        dataSource.query(
          'SELECT id::int, state, mime_type, thumbnail_size, thumbnail_lease_until FROM chat_images ORDER BY id',
        );
      const files = (): Promise<unknown> =>
        dataSource.query(
          `SELECT pg_relation_filenode('chat_images') AS images, pg_relation_filenode('chat_image_access') AS access`,
        );
      const tombstones = async (): Promise<string[]> =>
        (
          await dataSource.query<{ key: string }[]>(
            'SELECT object_key AS key FROM chat_image_tombstones ORDER BY object_key',
          )
        ).map(({ key }) => key);
      expect(await migrateDown(dataSource)).toEqual(['Thumbnails1767000000000']);
      await dataSource.query(`
        INSERT INTO users (id) VALUES (1), (2);
        INSERT INTO appointments (id, patient_id, doctor_id) VALUES (1, 1, 2);
        INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type, state, sha256_stored)
          SELECT n, 1, 'f/' || n || '.jpg', n || '.jpg', 1, 1, 'image/jpeg', CASE n WHEN 4 THEN 'pending' ELSE 'stored' END,
            repeat('a', 64) FROM generate_series(1, 5) n;
        INSERT INTO chat_image_access (chat_image_id, accessed_by) VALUES (1, 1);
      `);
      const before = await files();
      await migrateUp(dataSource);
      // The tables were not rewritten.
      expect(await files()).toEqual(before);
      expect(await dataSource.query('SELECT variant FROM chat_image_access')).toEqual([
        { variant: 'original' },
      ]);
      const partial = dataSource.query('UPDATE chat_images SET thumbnail_size = 1 WHERE id = 1');
      await expect(partial).rejects.toThrow('chat_images_whole_thumbnail');
      await dataSource.query(`
        UPDATE chat_images SET thumbnail_width = 1, thumbnail_height = 1, thumbnail_size = 1, thumb_hash = 'a' WHERE id = 1;
        UPDATE chat_images SET thumbnail_lease_until = now() WHERE id = 2;
        INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type, thumbnail_lease_until)
          VALUES (6, 1, repeat('a', 255), 'long', 1, 1, 'image/jpeg', now());
        DELETE FROM chat_images WHERE id IN (1, 3, 4, 6);
      `);
      expect(await tombstones()).toEqual([
        'f/1.jpg',
        'f/3.jpg',
        'f/4.jpg',
        'f/thumbs/1.jpg.jpg',
        'f/thumbs/4.jpg.jpg',
      ]);
      expect(await migrateDown(dataSource, { dropData: true })).toEqual(['Thumbnails1767000000000']);
      expect(await tombstones()).toContain('f/thumbs/2.jpg.jpg');
      // As before this migration.
      await dataSource.query('DELETE FROM chat_images WHERE id = 5');
      expect((await tombstones()).filter((key) => key.includes('5'))).toEqual(['f/5.jpg']);
      await migrateUp(dataSource);
      expect(await images()).toEqual([
        {
          id: 2,
          state: 'stored',
          mime_type: 'image/jpeg',
          thumbnail_size: null,
          thumbnail_lease_until: null,
        },
      ]);
      await dataSource.query('TRUNCATE chat_images CASCADE');
      expect(await tombstones()).toContain('f/2.jpg');
    });
  });

  it('match the entities', async () => {
    await withDatabase('drift', async (dataSource) => {
      await migrateUp(dataSource);
      const { upQueries } = await dataSource.driver.createSchemaBuilder().log();
      expect(upQueries.map(({ query }) => query)).toEqual([]);
    });
  });

  it('name all data that they would drop on the way down', async () => {
    await withDatabase('losses', async (dataSource) => {
      await migrateUp(dataSource);
      await dataSource.query(`
        INSERT INTO users (id) VALUES (1), (2);
        INSERT INTO appointments (id, patient_id, doctor_id) VALUES (1, 1, 2);
        INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type, original_name, width, height,
            sha256_sent, sha256_stored, thumbnail_width, thumbnail_height, thumbnail_size, thumb_hash, thumbnail_lease_until)
          VALUES (1, 1, 'a', 'a', 1, 1, 'image/png', 'a.png', 2, 3, repeat('a', 64), repeat('b', 64), 2, 3, 1, 'a', now());
        INSERT INTO chat_image_access (chat_image_id, accessed_by, variant) VALUES (1, 1, 'thumbnail');
        INSERT INTO chat_image_link_opens (chat_image_id, app_version, client_network, variant)
          VALUES (1, 'a', 'b', 'thumbnail');
        INSERT INTO chat_image_tombstones (object_key, settled_at) VALUES ('b', now());
        INSERT INTO chat_image_upload_keys (uploaded_by, idempotency_key, chat_image_id) VALUES (1, 'a', 1);
      `);
      // Migrations fill these themselves, and their loss does no harm.
      const own = ['chat_image_adopted_tables', 'chat_image_upkeep_tasks', 'chat_images.lease_until'];
      const there = async (): Promise<string[]> => {
        const names = await dataSource.query<{ name: string }[]>(
          `SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'
           UNION SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public'`,
        );
        return names.map(({ name }) => name).filter((name) => !own.includes(name.split('.')[0] ?? ''));
      };
      for (let migrated = true; migrated;) {
        const refusal = await migrateDown(dataSource).catch((error: unknown) => error);
        if (!(refusal instanceof DataLossError)) {
          migrated = (refusal as string[]).length > 0;
          continue;
        }
        const before = await there();
        expect(await migrateDown(dataSource, { dropData: true })).toHaveLength(1);
        const after = new Set(await there());
        const gone = before.filter((name) => !after.has(name));
        // The columns of a dropped table are not named.
        const tables = new Set(gone.filter((name) => !name.includes('.')));
        const expected = gone.filter((name) => !name.includes('.') || !tables.has(name.split('.')[0] ?? ''));
        expect(refusal.losses.map(({ of }) => of).sort()).toEqual(expected.sort());
        const counts = refusal.losses.map(({ of, count }) => [of, count]);
        // The thumbnails' migration has left a tombstone of its own on the way down.
        expect(counts).toEqual(refusal.losses.map(({ of }) => [of, of === 'chat_image_tombstones' ? 2 : 1]));
      }
      expect(
        (await there()).filter((name) => name.startsWith('chat_image') && !name.includes('migrations')),
      ).toEqual([]);
    });
  });

  it('run once when two instances start at the same time', async () => {
    await withDatabase('twice', async (first) => {
      await withDatabase('twice', async (second) => {
        const runs = await Promise.all([migrateUp(first), migrateUp(second)]);
        expect(runs.filter((names) => names.length > 0)).toHaveLength(1);
      });
    });
  });
});

describe('ids beyond 2^31', () => {
  it('work in uploads, signed URLs and audit rows', async () => {
    const test = await TestApp.start();
    const user = 2 ** 52 + 1;
    const appointment = Number.MAX_SAFE_INTEGER;
    const image = 2 ** 40;
    try {
      await test.database.query('INSERT INTO users (id) VALUES ($1)', [user]);
      await test.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, 2)', [
        appointment,
        user,
      ]);
      await test.database.query(`SELECT setval('chat_images_id_seq', $1)`, [image]);
      const answer = await test.upload(await picture('png'), { as: user, appointment: String(appointment) });
      const { data } = (await answer.json()) as UploadedChatImageResponseDto;
      expect(data).toMatchObject({
        id: image + 1,
        image_id: String(image + 1),
        appointment_id: appointment,
        uploaded_by: user,
      });
      expect(data.media_url.length).toBeLessThanOrEqual(255);
      expect((await test.fetch(`/api/chat-images/${data.image_id}/signed-url`, { as: user })).status).toBe(
        200,
      );
      const trail = await test.database.query<unknown>(
        'SELECT DISTINCT chat_image_id, accessed_by FROM chat_image_access',
      );
      expect(trail).toEqual([{ chat_image_id: image + 1, accessed_by: user }]);
    } finally {
      await test.stop();
    }
  });
});
