import type { QueryRunner } from 'typeorm';
import type { DroppingMigration } from '../data-loss.js';

/**
 * After this time no PUT of the object can succeed: S3 refuses requests whose signature is older than 15 minutes, and an
 * upload retries for less than one minute.
 */
const SETTLE_TIME = "interval '20 minutes'";

/**
 * Tombstones, for a database and a bucket shared with other applications. When any client deletes a row of this service, a
 * trigger writes a tombstone with the object key in the same transaction. The sweeper deletes only objects that have a
 * tombstone. Only rows with `sha256_stored` leave tombstones: only this service writes that digest, for objects that it
 * wrote itself. When `file_path` of a row changes, the row loses the digest: the new path may name a foreign object.
 */
export class Tombstones1764000000000 implements DroppingMigration {
  readonly name = 'Tombstones1764000000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    const [row] = (await queryRunner.query('SELECT quote_ident(current_schema()) AS schema')) as {
      schema: string;
    }[];
    // SECURITY DEFINER: a role that deletes a row needs no rights on the tombstones. The fixed search_path prevents that
    // another schema's table is used instead.
    const asOwner = `LANGUAGE plpgsql SECURITY DEFINER SET search_path = ${row?.schema ?? 'public'}, pg_temp`;
    await queryRunner.query(`
      CREATE TABLE chat_image_tombstones (
        object_key varchar(255) CONSTRAINT chat_image_tombstones_pkey PRIMARY KEY,
        attempts integer NOT NULL DEFAULT 0,
        settled_at timestamptz(3) NOT NULL,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        next_attempt_at timestamptz(3) NOT NULL DEFAULT now()
      )
    `);
    await queryRunner.query(
      'CREATE INDEX chat_image_tombstones_next_attempt_at_index ON chat_image_tombstones (next_attempt_at)',
    );
    await queryRunner.query(`
      CREATE FUNCTION chat_images_leave_tombstones() RETURNS trigger ${asOwner} AS $$
      BEGIN
        INSERT INTO chat_image_tombstones (object_key, settled_at)
          SELECT file_path, least(created_at, now()) + ${SETTLE_TIME} FROM removed WHERE sha256_stored IS NOT NULL
          ON CONFLICT (object_key) DO NOTHING;
        RETURN NULL;
      END $$
    `);
    await queryRunner.query(`
      CREATE TRIGGER chat_images_leave_tombstones AFTER DELETE ON chat_images
        REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION chat_images_leave_tombstones()
    `);
    await queryRunner.query(`
      CREATE FUNCTION chat_images_leave_all_tombstones() RETURNS trigger ${asOwner} AS $$
      BEGIN
        INSERT INTO chat_image_tombstones (object_key, settled_at)
          SELECT file_path, least(created_at, now()) + ${SETTLE_TIME} FROM chat_images WHERE sha256_stored IS NOT NULL
          ON CONFLICT (object_key) DO NOTHING;
        RETURN NULL;
      END $$
    `);
    await queryRunner.query(`
      CREATE TRIGGER chat_images_leave_all_tombstones BEFORE TRUNCATE ON chat_images
        FOR EACH STATEMENT EXECUTE FUNCTION chat_images_leave_all_tombstones()
    `);

    await queryRunner.query(`
      CREATE FUNCTION chat_images_disown() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        NEW.sha256_stored := NULL;
        RETURN NEW;
      END $$
    `);
    await queryRunner.query(`
      CREATE TRIGGER chat_images_disown BEFORE UPDATE OF file_path ON chat_images FOR EACH ROW
        WHEN (NEW.file_path IS DISTINCT FROM OLD.file_path AND NEW.sha256_stored IS NOT DISTINCT FROM OLD.sha256_stored)
        EXECUTE FUNCTION chat_images_disown()
    `);

    // Finds the row of an object. Collation "C" is byte order, the order of a bucket listing.
    await queryRunner.query(
      'CREATE INDEX chat_images_file_path_index ON chat_images (file_path COLLATE "C")',
    );

    await queryRunner.query(`
      CREATE TABLE chat_image_upkeep_tasks (
        name varchar(32) CONSTRAINT chat_image_upkeep_tasks_pkey PRIMARY KEY,
        due_at timestamptz(3) NOT NULL
      )
    `);

    // The main application may write rows without timestamps: Laravel's timestamp columns are nullable.
    await queryRunner.query(`
      CREATE FUNCTION chat_images_fill_times() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        NEW.created_at := coalesce(NEW.created_at, now());
        NEW.updated_at := coalesce(NEW.updated_at, now());
        RETURN NEW;
      END $$
    `);
    await queryRunner.query(`
      CREATE TRIGGER chat_images_fill_times BEFORE INSERT OR UPDATE ON chat_images FOR EACH ROW
        WHEN (NEW.created_at IS NULL OR NEW.updated_at IS NULL) EXECUTE FUNCTION chat_images_fill_times()
    `);
  }

  drops(): Promise<readonly string[]> {
    return Promise.resolve(['chat_image_tombstones']);
  }

  /** Objects of remaining tombstones stay in the storage. The reconciler reports them as unknown. */
  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('DROP TRIGGER chat_images_fill_times ON chat_images');
    await queryRunner.query('DROP FUNCTION chat_images_fill_times()');
    await queryRunner.query('DROP TABLE chat_image_upkeep_tasks');
    await queryRunner.query('DROP INDEX chat_images_file_path_index');
    await queryRunner.query('DROP TRIGGER chat_images_disown ON chat_images');
    await queryRunner.query('DROP FUNCTION chat_images_disown()');
    await queryRunner.query('DROP TRIGGER chat_images_leave_all_tombstones ON chat_images');
    await queryRunner.query('DROP FUNCTION chat_images_leave_all_tombstones()');
    await queryRunner.query('DROP TRIGGER chat_images_leave_tombstones ON chat_images');
    await queryRunner.query('DROP FUNCTION chat_images_leave_tombstones()');
    await queryRunner.query('DROP TABLE chat_image_tombstones');
  }
}
