import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Allows one pending upload per user, conversation and picture: simultaneous duplicates become one image. */
export class OnePendingUpload1762500000000 implements MigrationInterface {
  readonly name = 'OnePendingUpload1762500000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    // Crashes may have left several pending uploads of one picture. The sweeper removes abandoned uploads.
    await queryRunner.query(`UPDATE chat_images SET state = 'abandoned' WHERE state = 'pending'`);
    await queryRunner.query(`
      CREATE UNIQUE INDEX chat_images_pending_picture_unique
        ON chat_images (uploaded_by, appointment_id, sha256_sent) WHERE state = 'pending'
    `);
  }

  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('DROP INDEX chat_images_pending_picture_unique');
  }
}
