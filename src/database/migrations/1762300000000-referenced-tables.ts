import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * `users` and `appointments` belong to the main application. This migration creates missing tables, as on a developer's
 * machine, with the few columns that this service reads. Existing tables are never altered or dropped.
 */
export class ReferencedTables1762300000000 implements MigrationInterface {
  readonly name = 'ReferencedTables1762300000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('CREATE TABLE IF NOT EXISTS users (id bigserial PRIMARY KEY)');
    await queryRunner.query(`
      CREATE TABLE IF NOT EXISTS appointments (
        id bigserial PRIMARY KEY,
        patient_id bigint NOT NULL,
        doctor_id bigint NOT NULL
      )
    `);
  }

  /** Keeps both tables: the main application may use them by now. */
  async down(): Promise<void> {}
}
