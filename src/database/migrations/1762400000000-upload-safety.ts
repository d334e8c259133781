import type { QueryRunner } from 'typeorm';
import type { DroppingMigration } from '../data-loss.js';

/** Makes uploads verifiable and repeatable: digests of the picture, and the idempotency keys of clients. */
export class UploadSafety1762400000000 implements DroppingMigration {
  readonly name = 'UploadSafety1762400000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query(`
      ALTER TABLE chat_images
        ADD COLUMN sha256_sent char(64),
        ADD COLUMN sha256_stored char(64)
    `);
    // Finds duplicates: earlier uploads of the same picture.
    await queryRunner.query(
      'CREATE INDEX chat_images_uploaded_by_sha256_sent_index ON chat_images (uploaded_by, sha256_sent, created_at)',
    );
    // Finds unfinished uploads for the sweeper, among millions of stored pictures.
    await queryRunner.query(
      `CREATE INDEX chat_images_unfinished_index ON chat_images (created_at) WHERE state <> 'stored'`,
    );
    await queryRunner.query(`
      CREATE TABLE chat_image_upload_keys (
        uploaded_by bigint NOT NULL
          CONSTRAINT chat_image_upload_keys_uploaded_by_foreign REFERENCES users (id) ON DELETE CASCADE,
        idempotency_key varchar(255) NOT NULL,
        chat_image_id bigint NOT NULL
          CONSTRAINT chat_image_upload_keys_chat_image_id_foreign REFERENCES chat_images (id) ON DELETE CASCADE,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        CONSTRAINT chat_image_upload_keys_pkey PRIMARY KEY (uploaded_by, idempotency_key)
      )
    `);
    await queryRunner.query(
      'CREATE INDEX chat_image_upload_keys_chat_image_id_index ON chat_image_upload_keys (chat_image_id)',
    );
    await queryRunner.query(
      'CREATE INDEX chat_image_upload_keys_created_at_index ON chat_image_upload_keys (created_at)',
    );
  }

  drops(): Promise<readonly string[]> {
    return Promise.resolve([
      'chat_image_upload_keys',
      'chat_images.sha256_sent',
      'chat_images.sha256_stored',
    ]);
  }

  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('DROP TABLE chat_image_upload_keys');
    await queryRunner.query('DROP INDEX chat_images_unfinished_index');
    await queryRunner.query('ALTER TABLE chat_images DROP COLUMN sha256_sent, DROP COLUMN sha256_stored');
  }
}
