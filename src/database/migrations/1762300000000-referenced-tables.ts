import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * `users` and `appointments` belong to the main application. Where they do not exist, as on a developer's machine,
 * the few columns that this service reads are made; an existing table is neither altered nor, on the way down,
 * dropped.
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

  /** Leaves both tables: nothing tells whether the main application has taken them over since. */
  async down(): Promise<void> {}
}
