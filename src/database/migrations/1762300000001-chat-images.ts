import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The pictures and the trail of who was handed a URL to them. Names are those that Laravel gives. */
export class ChatImages1762300000001 implements MigrationInterface {
  readonly name = 'ChatImages1762300000001';

  async up(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query(`
      CREATE TABLE chat_images (
        id bigserial CONSTRAINT chat_images_pkey PRIMARY KEY,
        appointment_id bigint NOT NULL
          CONSTRAINT chat_images_appointment_id_foreign REFERENCES appointments (id) ON DELETE CASCADE,
        file_path varchar(255) NOT NULL,
        filename varchar(255) NOT NULL,
        uploaded_by bigint NOT NULL
          CONSTRAINT chat_images_uploaded_by_foreign REFERENCES users (id) ON DELETE CASCADE,
        size integer NOT NULL,
        mime_type varchar(255) NOT NULL,
        original_name varchar(255) NOT NULL DEFAULT '',
        width integer NOT NULL DEFAULT 0,
        height integer NOT NULL DEFAULT 0,
        state varchar(16) NOT NULL DEFAULT 'stored',
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        updated_at timestamptz(3) NOT NULL DEFAULT now()
      )
    `);
    await queryRunner.query(
      'CREATE INDEX chat_images_appointment_id_created_at_index ON chat_images (appointment_id, created_at)',
    );
    await queryRunner.query('CREATE UNIQUE INDEX chat_images_filename_unique ON chat_images (filename)');
    await queryRunner.query(`
      CREATE TABLE chat_image_access (
        id bigserial CONSTRAINT chat_image_access_pkey PRIMARY KEY,
        chat_image_id bigint NOT NULL
          CONSTRAINT chat_image_access_chat_image_id_foreign REFERENCES chat_images (id) ON DELETE CASCADE,
        accessed_by bigint NOT NULL
          CONSTRAINT chat_image_access_accessed_by_foreign REFERENCES users (id) ON DELETE CASCADE,
        accessed_at timestamptz(3) NOT NULL DEFAULT now()
      )
    `);
    await queryRunner.query(
      'CREATE INDEX chat_image_access_chat_image_id_accessed_at_index ON chat_image_access (chat_image_id, accessed_at)',
    );
  }

  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('DROP TABLE chat_image_access');
    await queryRunner.query('DROP TABLE chat_images');
  }
}
