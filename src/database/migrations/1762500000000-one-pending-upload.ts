import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The same picture is written to the storage once at a time: what makes copies that arrive at the same moment one image. */
export class OnePendingUpload1762500000000 implements MigrationInterface {
  readonly name = 'OnePendingUpload1762500000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    // Left by crashes, several of them may be of one picture. The sweeper removes them.
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
