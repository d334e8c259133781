import type { QueryRunner } from 'typeorm';
import type { DroppingMigration } from '../data-loss.js';

/**
 * Pictures of text sessions. A picture belongs to one conversation: an appointment or a text session. The table
 * `text_sessions` belongs to the main application: a minimal version is created where it does not exist, as a developer's
 * machine needs it, and an existing one is never altered or dropped.
 */
export class TextSessions1766000000000 implements DroppingMigration {
  readonly name = 'TextSessions1766000000000';

  async up(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query(`
      CREATE TABLE IF NOT EXISTS text_sessions (
        id bigserial PRIMARY KEY,
        patient_id bigint NOT NULL,
        doctor_id bigint NOT NULL
      )
    `);
    await queryRunner.query('ALTER TABLE chat_images ADD COLUMN text_session_id bigint');
    // TEXT_SESSIONS is off by default: a table that can't be referenced must not stop the migration.
    if (await canBeReferenced(queryRunner)) {
      await queryRunner.query(`
        ALTER TABLE chat_images ADD CONSTRAINT chat_images_text_session_id_foreign
          FOREIGN KEY (text_session_id) REFERENCES text_sessions (id) ON DELETE CASCADE
      `);
    }
    await queryRunner.query(`
      ALTER TABLE chat_images ALTER appointment_id DROP NOT NULL,
        ADD CONSTRAINT chat_images_one_conversation CHECK (num_nonnulls(appointment_id, text_session_id) = 1)
    `);
    await queryRunner.query(
      'CREATE INDEX chat_images_text_session_id_created_at_index ON chat_images (text_session_id, created_at)',
    );
    await queryRunner.query(`
      CREATE UNIQUE INDEX chat_images_pending_picture_of_session_unique
        ON chat_images (uploaded_by, text_session_id, sha256_sent) WHERE state = 'pending'
    `);
  }

  drops(): Promise<readonly string[]> {
    return Promise.resolve(['chat_images.text_session_id']);
  }

  /** Deletes the pictures of text sessions: without the column they would have no conversation. Keeps `text_sessions`. */
  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('DELETE FROM chat_images WHERE appointment_id IS NULL');
    await queryRunner.query('ALTER TABLE chat_images DROP CONSTRAINT chat_images_one_conversation');
    await queryRunner.query('ALTER TABLE chat_images DROP COLUMN text_session_id');
    await queryRunner.query('ALTER TABLE chat_images ALTER appointment_id SET NOT NULL');
  }
}

/** Whether a foreign key to `text_sessions` is possible: a whole number as the primary key, and the right to reference it. */
async function canBeReferenced(queryRunner: QueryRunner): Promise<boolean> {
  const rows = (await queryRunner.query(`
    SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = 'text_sessions'::regclass AND indisunique AND indnkeyatts = 1 AND indpred IS NULL
      AND attname = 'id' AND atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
      AND has_column_privilege(indrelid, attnum, 'REFERENCES')
  `)) as unknown[];
  return rows.length > 0;
}
