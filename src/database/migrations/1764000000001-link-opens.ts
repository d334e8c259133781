import type { QueryRunner } from 'typeorm';
import type { DroppingMigration } from '../data-loss.js';

/** Log of stable addresses opened without a token, in the migration phases that allow this. */
export class LinkOpens1764000000001 implements DroppingMigration {
  readonly name = 'LinkOpens1764000000001';

  async up(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query(`
      CREATE TABLE chat_image_link_opens (
        id bigserial CONSTRAINT chat_image_link_opens_pkey PRIMARY KEY,
        chat_image_id bigint
          CONSTRAINT chat_image_link_opens_chat_image_id_foreign REFERENCES chat_images (id) ON DELETE CASCADE,
        opened_at timestamptz(3) NOT NULL DEFAULT now(),
        app_version varchar(100) NOT NULL,
        client_network varchar(50) NOT NULL
      )
    `);
    await queryRunner.query(
      'CREATE INDEX chat_image_link_opens_chat_image_id_index ON chat_image_link_opens (chat_image_id)',
    );
    await queryRunner.query(
      'CREATE INDEX chat_image_link_opens_opened_at_index ON chat_image_link_opens (opened_at)',
    );
  }

  drops(): Promise<readonly string[]> {
    return Promise.resolve(['chat_image_link_opens']);
  }

  async down(queryRunner: QueryRunner): Promise<void> {
    await queryRunner.query('DROP TABLE chat_image_link_opens');
  }
}
