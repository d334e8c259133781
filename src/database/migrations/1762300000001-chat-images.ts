import type { QueryRunner } from 'typeorm';
import type { DroppingMigration } from '../data-loss.js';
import { CHAT_IMAGE_ACCESS_TABLE, CHAT_IMAGES_TABLE, existingTables } from '../existing-tables.js';

/**
 * The tables of pictures and audit rows, with Laravel's naming. Tables that the main application already created, as in
 * section 3 of the requirements, are adopted: missing columns are added, and existing rows count as stored pictures.
 */
export class ChatImages1762300000001 implements DroppingMigration {
  readonly name = 'ChatImages1762300000001';

  /** @throws TableMismatchError when an existing table differs from the requirements, with one line per difference */
  async up(queryRunner: QueryRunner): Promise<void> {
    const existing = await existingTables(queryRunner, [CHAT_IMAGES_TABLE, CHAT_IMAGE_ACCESS_TABLE]);
    await queryRunner.query('CREATE TABLE chat_image_adopted_tables (name varchar(63) PRIMARY KEY)');
    for (const name of existing)
      await queryRunner.query('INSERT INTO chat_image_adopted_tables VALUES ($1)', [name]);
    await (existing.has('chat_images') ? adoptChatImages(queryRunner) : createChatImages(queryRunner));
    await queryRunner.query('CREATE UNIQUE INDEX chat_images_filename_unique ON chat_images (filename)');
    await (existing.has('chat_image_access')
      ? adoptChatImageAccess(queryRunner)
      : createChatImageAccess(queryRunner));
  }

  async drops(queryRunner: QueryRunner): Promise<readonly string[]> {
    const adopted = await adoptedTables(queryRunner);
    const columns = ['chat_images.original_name', 'chat_images.width', 'chat_images.height'];
    return [
      ...(adopted.has('chat_image_access') ? [] : ['chat_image_access']),
      ...(adopted.has('chat_images') ? columns : ['chat_images']),
    ];
  }

  /** Restores adopted tables with all their pictures. Drops the tables that this migration created. */
  async down(queryRunner: QueryRunner): Promise<void> {
    const adopted = await adoptedTables(queryRunner);
    if (adopted.has('chat_image_access')) {
      await queryRunner.query(`
        ALTER TABLE chat_image_access ALTER accessed_at DROP DEFAULT,
          ALTER accessed_at TYPE timestamp(0) without time zone USING accessed_at AT TIME ZONE 'UTC'
      `);
    } else {
      await queryRunner.query('DROP TABLE chat_image_access');
    }
    if (adopted.has('chat_images')) {
      // Unfinished uploads are not pictures. Without the column `state` they would count as pictures.
      await queryRunner.query(`DELETE FROM chat_images WHERE state <> 'stored'`);
      await queryRunner.query('DROP INDEX chat_images_filename_unique');
      await queryRunner.query(`
        ALTER TABLE chat_images
          DROP COLUMN original_name, DROP COLUMN width, DROP COLUMN height, DROP COLUMN state,
          ALTER created_at DROP DEFAULT, ALTER created_at DROP NOT NULL,
          ALTER created_at TYPE timestamp(0) without time zone USING created_at AT TIME ZONE 'UTC',
          ALTER updated_at DROP DEFAULT, ALTER updated_at DROP NOT NULL,
          ALTER updated_at TYPE timestamp(0) without time zone USING updated_at AT TIME ZONE 'UTC'
      `);
    } else {
      await queryRunner.query('DROP TABLE chat_images');
    }
    await queryRunner.query('DROP TABLE IF EXISTS chat_image_adopted_tables');
  }
}

async function createChatImages(queryRunner: QueryRunner): Promise<void> {
  await queryRunner.query(`
    CREATE TABLE chat_images (
      id bigserial CONSTRAINT chat_images_pkey PRIMARY KEY,
      appointment_id bigint NOT NULL
        CONSTRAINT chat_images_appointment_id_foreign REFERENCES appointments (id) ON DELETE CASCADE,
      file_path varchar(255) NOT NULL,
      filename varchar(255) NOT NULL,
      uploaded_by bigint NOT NULL
        CONSTRAINT chat_images_uploaded_by_foreign REFERENCES users (id) ON DELETE CASCADE,
      size integer NOT NULL,
      mime_type varchar(255) NOT NULL,
      original_name varchar(255) NOT NULL DEFAULT '',
      width integer NOT NULL DEFAULT 0,
      height integer NOT NULL DEFAULT 0,
      state varchar(16) NOT NULL DEFAULT 'stored',
      created_at timestamptz(3) NOT NULL DEFAULT now(),
      updated_at timestamptz(3) NOT NULL DEFAULT now()
    )
  `);
  await queryRunner.query(
    'CREATE INDEX chat_images_appointment_id_created_at_index ON chat_images (appointment_id, created_at)',
  );
}

/** Laravel writes timestamps without time zone, in UTC. A row without timestamp gets the timestamp in its file name. */
async function adoptChatImages(queryRunner: QueryRunner): Promise<void> {
  await queryRunner.query(`
    ALTER TABLE chat_images
      ADD COLUMN original_name varchar(255) NOT NULL DEFAULT '',
      ADD COLUMN width integer NOT NULL DEFAULT 0,
      ADD COLUMN height integer NOT NULL DEFAULT 0,
      ADD COLUMN state varchar(16) NOT NULL DEFAULT 'stored',
      ALTER created_at TYPE timestamptz(3) USING created_at AT TIME ZONE 'UTC', ALTER created_at SET DEFAULT now(),
      ALTER updated_at TYPE timestamptz(3) USING updated_at AT TIME ZONE 'UTC', ALTER updated_at SET DEFAULT now()
  `);
  await queryRunner.query(`
    UPDATE chat_images SET
      created_at = coalesce(created_at, updated_at, to_timestamp(substring(filename from '^(\\d{9,10})_')::bigint), now()),
      updated_at = coalesce(updated_at, created_at, to_timestamp(substring(filename from '^(\\d{9,10})_')::bigint), now())
    WHERE created_at IS NULL OR updated_at IS NULL
  `);
  await queryRunner.query(
    'ALTER TABLE chat_images ALTER created_at SET NOT NULL, ALTER updated_at SET NOT NULL',
  );
}

async function createChatImageAccess(queryRunner: QueryRunner): Promise<void> {
  await queryRunner.query(`
    CREATE TABLE chat_image_access (
      id bigserial CONSTRAINT chat_image_access_pkey PRIMARY KEY,
      chat_image_id bigint NOT NULL
        CONSTRAINT chat_image_access_chat_image_id_foreign REFERENCES chat_images (id) ON DELETE CASCADE,
      accessed_by bigint NOT NULL
        CONSTRAINT chat_image_access_accessed_by_foreign REFERENCES users (id) ON DELETE CASCADE,
      accessed_at timestamptz(3) NOT NULL DEFAULT now()
    )
  `);
  await queryRunner.query(
    'CREATE INDEX chat_image_access_chat_image_id_accessed_at_index ON chat_image_access (chat_image_id, accessed_at)',
  );
}

async function adoptChatImageAccess(queryRunner: QueryRunner): Promise<void> {
  await queryRunner.query(`
    ALTER TABLE chat_image_access
      ALTER accessed_at TYPE timestamptz(3) USING accessed_at AT TIME ZONE 'UTC',
      ALTER accessed_at SET DEFAULT now()
  `);
}

async function adoptedTables(queryRunner: QueryRunner): Promise<ReadonlySet<string>> {
  // Missing when an earlier version of this migration ran, which could not adopt tables.
  if (!(await queryRunner.hasTable('chat_image_adopted_tables'))) return new Set();
  const rows = (await queryRunner.query('SELECT name FROM chat_image_adopted_tables')) as { name: string }[];
  return new Set(rows.map(({ name }) => name));
}
