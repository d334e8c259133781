import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The lease of a pending upload, renewed by its process. Rows of earlier versions have no lease. */
export class UploadLeases1765000000000 implements MigrationInterface {
  readonly name = 'UploadLeases1765000000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('ALTER TABLE chat_images ADD COLUMN lease_until timestamptz(3)');
  }

  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('ALTER TABLE chat_images DROP COLUMN lease_until');
  }
}
