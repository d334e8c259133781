import type { QueryRunner } from 'typeorm';
import type { DroppingMigration } from '../data-loss.js';

/** As in the migration of tombstones: after this time no PUT of an object can succeed. */
const SETTLE_TIME = "interval '20 minutes'";

/** A condition on a row: this service may have written a thumbnail. An unfinished upload writes picture and thumbnail. */
const MAY_HAVE_THUMBNAIL = `(state <> 'stored' OR thumbnail_size IS NOT NULL OR thumbnail_lease_until IS NOT NULL)`;

/** A key that does not fit the column belongs to a row of the main application. No thumbnail is made for such a row. */
const THUMBNAIL = `${MAY_HAVE_THUMBNAIL} AND length(chat_image_thumbnail_key(file_path, mime_type)) <= 255`;

/**
 * A missing thumbnail is written long after its row is made: its write ends before the row is changed, or while the row has a
 * lease.
 */
const SETTLED_AT = `CASE WHEN thumbnail_lease_until IS NOT NULL THEN now()
  ELSE least(CASE state WHEN 'stored' THEN greatest(created_at, updated_at) ELSE created_at END, now()) END + ${SETTLE_TIME}`;

/** Thumbnails of pictures, and the variant of each URL that was handed out. */
export class Thumbnails1767000000000 implements DroppingMigration {
  readonly name = 'Thumbnails1767000000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    const asOwner = await ownersRights(queryRunner);
    await queryRunner.query(`
      ALTER TABLE chat_images
        ADD COLUMN thumbnail_width integer,
        ADD COLUMN thumbnail_height integer,
        ADD COLUMN thumbnail_size integer,
        ADD COLUMN thumb_hash varchar(40),
        ADD COLUMN thumbnail_lease_until timestamptz(3),
        ADD CONSTRAINT chat_images_whole_thumbnail
          CHECK (num_nulls(thumbnail_width, thumbnail_height, thumbnail_size, thumb_hash) IN (0, 4))
    `);
    for (const table of ['chat_image_access', 'chat_image_link_opens'])
      await queryRunner.query(
        `ALTER TABLE ${table} ADD COLUMN variant varchar(16) NOT NULL DEFAULT 'original'`,
      );

    // The same as thumbnailKey in chat-image-path.ts. The schemas are named, so that an index can use the function.
    await queryRunner.query(`
      CREATE FUNCTION chat_image_thumbnail_key(file_path text, mime_type text) RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
          SELECT pg_catalog.regexp_replace(file_path, '([^/]*)$', 'thumbs/\\1')
            || CASE mime_type WHEN 'image/jpeg' THEN '.jpg' ELSE '.webp' END
        $$
    `);
    // Finds the row of a thumbnail's object, in the order of a bucket listing.
    await queryRunner.query(`
      CREATE INDEX chat_images_thumbnail_key_index
        ON chat_images ((chat_image_thumbnail_key(file_path, mime_type)) COLLATE "C") WHERE ${MAY_HAVE_THUMBNAIL}
    `);

    await replaceTombstoneFunctions(
      queryRunner,
      asOwner,
      (rows) => `
        INSERT INTO chat_image_tombstones (object_key, settled_at)
          SELECT file_path, least(created_at, now()) + ${SETTLE_TIME} FROM ${rows} WHERE sha256_stored IS NOT NULL
          UNION ALL
          SELECT chat_image_thumbnail_key(file_path, mime_type), ${SETTLED_AT} FROM ${rows}
          WHERE ${THUMBNAIL} AND (state = 'stored' OR sha256_stored IS NOT NULL)
          ON CONFLICT (object_key) DO NOTHING;`,
    );

    // A row that is given another path or type has another key: the old thumbnail is this service's, and unwanted.
    await queryRunner.query(`
      CREATE FUNCTION chat_images_forget_thumbnail() RETURNS trigger ${asOwner} AS $$
      BEGIN
        INSERT INTO chat_image_tombstones (object_key, settled_at)
          SELECT chat_image_thumbnail_key(OLD.file_path, OLD.mime_type), now() + ${SETTLE_TIME}
          WHERE length(chat_image_thumbnail_key(OLD.file_path, OLD.mime_type)) <= 255
          ON CONFLICT (object_key) DO NOTHING;
        NEW.thumbnail_width := NULL;
        NEW.thumbnail_height := NULL;
        NEW.thumbnail_size := NULL;
        NEW.thumb_hash := NULL;
        NEW.thumbnail_lease_until := NULL;
        RETURN NEW;
      END $$
    `);
    await queryRunner.query(`
      CREATE TRIGGER chat_images_forget_thumbnail BEFORE UPDATE OF file_path, mime_type ON chat_images FOR EACH ROW
        WHEN ((OLD.thumbnail_size IS NOT NULL OR OLD.thumbnail_lease_until IS NOT NULL)
          AND (OLD.file_path, OLD.mime_type) IS DISTINCT FROM (NEW.file_path, NEW.mime_type))
        EXECUTE FUNCTION chat_images_forget_thumbnail()
    `);
  }

  drops(): Promise<readonly string[]> {
    return Promise.resolve([
      'chat_images.thumbnail_width',
      'chat_images.thumbnail_height',
      'chat_images.thumbnail_size',
      'chat_images.thumb_hash',
      'chat_images.thumbnail_lease_until',
      'chat_image_access.variant',
      'chat_image_link_opens.variant',
    ]);
  }

  /** Leaves tombstones for the thumbnails: without the columns, nothing names their objects. */
  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query(`
      INSERT INTO chat_image_tombstones (object_key, settled_at)
        SELECT chat_image_thumbnail_key(file_path, mime_type), now() + ${SETTLE_TIME} FROM chat_images
        WHERE ${THUMBNAIL} AND state = 'stored'
        ON CONFLICT (object_key) DO NOTHING
    `);
    await queryRunner.query('DROP TRIGGER chat_images_forget_thumbnail ON chat_images');
    await queryRunner.query('DROP FUNCTION chat_images_forget_thumbnail()');
    await replaceTombstoneFunctions(
      queryRunner,
      await ownersRights(queryRunner),
      (rows) => `
        INSERT INTO chat_image_tombstones (object_key, settled_at)
          SELECT file_path, least(created_at, now()) + ${SETTLE_TIME} FROM ${rows} WHERE sha256_stored IS NOT NULL
          ON CONFLICT (object_key) DO NOTHING;`,
    );
    await queryRunner.query('DROP INDEX chat_images_thumbnail_key_index');
    await queryRunner.query('DROP FUNCTION chat_image_thumbnail_key(text, text)');
    for (const table of ['chat_image_access', 'chat_image_link_opens'])
      await queryRunner.query(`ALTER TABLE ${table} DROP COLUMN variant`);
    await queryRunner.query(`
      ALTER TABLE chat_images
        DROP COLUMN thumbnail_width, DROP COLUMN thumbnail_height, DROP COLUMN thumbnail_size, DROP COLUMN thumb_hash,
        DROP COLUMN thumbnail_lease_until
    `);
  }
}

/** Replaces what the triggers of deleted rows do. @param insert the statement for the deleted rows of this name */
async function replaceTombstoneFunctions(
  queryRunner: QueryRunner,
  asOwner: string,
  insert: (rows: string) => string,
): Promise<void> {
  for (const [name, rows] of [
    ['chat_images_leave_tombstones', 'removed'],
    ['chat_images_leave_all_tombstones', 'chat_images'],
  ] as const)
    await queryRunner.query(`
      CREATE OR REPLACE FUNCTION ${name}() RETURNS trigger ${asOwner} AS $$
      BEGIN
        ${insert(rows)}
        RETURN NULL;
      END $$
    `);
}

/** A role that deletes or changes a row needs no rights on the tombstones. See the migration of tombstones. */
async function ownersRights(queryRunner: QueryRunner): Promise<string> {
  const [row] = (await queryRunner.query('SELECT quote_ident(current_schema()) AS schema')) as {
    schema: string;
  }[];
  return `LANGUAGE plpgsql SECURITY DEFINER SET search_path = ${row?.schema ?? 'public'}, pg_temp`;
}
