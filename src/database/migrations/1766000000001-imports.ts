import type { QueryRunner } from 'typeorm';
import type { DroppingMigration } from '../data-loss.js';

/** The record of the import of old pictures: one row for each file of a source. See `src/import/`. */
export class Imports1766000000001 implements DroppingMigration {
  readonly name = 'Imports1766000000001';

  async up(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('ALTER TABLE chat_images ADD COLUMN imported_as varchar(16)');
    await queryRunner.query(`
      CREATE TABLE chat_image_imports (
        source varchar(255) NOT NULL,
        file_path varchar(255) NOT NULL,
        state varchar(16) NOT NULL DEFAULT 'waiting',
        reason varchar(255),
        chat_image_id bigint
          CONSTRAINT chat_image_imports_chat_image_id_foreign REFERENCES chat_images (id) ON DELETE SET NULL,
        source_sha256 char(64),
        original varchar(1024),
        stored_at timestamptz(3),
        updated_at timestamptz(3) NOT NULL DEFAULT now(),
        CONSTRAINT chat_image_imports_pkey PRIMARY KEY (source, file_path)
      )
    `);
    await queryRunner.query(
      'CREATE INDEX chat_image_imports_chat_image_id_index ON chat_image_imports (chat_image_id)',
    );
    // Finds the next files, among millions that are done.
    await queryRunner.query(`
      CREATE INDEX chat_image_imports_open_index ON chat_image_imports (source, file_path)
        WHERE state IN ('waiting', 'registered')
    `);
  }

  drops(): Promise<readonly string[]> {
    return Promise.resolve(['chat_image_imports', 'chat_images.imported_as']);
  }

  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('DROP TABLE chat_image_imports');
    await queryRunner.query('ALTER TABLE chat_images DROP COLUMN imported_as');
  }
}
