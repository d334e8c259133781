import {
  Column,
  Entity,
  Index,
  JoinColumn,
  ManyToOne,
  PrimaryColumn,
  type Relation,
  UpdateDateColumn,
} from 'typeorm';
import { ChatImage } from './chat-image.entity.js';

/**
 * `waiting` for the import; `registered` when the row is committed and the public object is still to be rewritten in place;
 * `stored` when the picture is private here. `failed` and `gone` (the file has vanished) have a `reason`. After the import:
 * `deleted` or `closed` (no longer public) in the source, or `returned` to it by a rollback.
 */
export type ImportState =
  'waiting' | 'registered' | 'stored' | 'failed' | 'gone' | 'deleted' | 'closed' | 'returned';

/** A file of a source of old pictures, and what has become of it. */
@Entity('chat_image_imports')
@Index('chat_image_imports_chat_image_id_index', ['chatImageId'])
@Index('chat_image_imports_open_index', ['source', 'filePath'], {
  where: `(state)::text = ANY ((ARRAY['waiting'::character varying, 'registered'::character varying])::text[])`,
})
export class ChatImageImport {
  /** A folder, or `s3://bucket/prefix`. */
  @PrimaryColumn('varchar', { length: 255, primaryKeyConstraintName: 'chat_image_imports_pkey' })
  source!: string;

  /** The path in the source, which is the `filePath` of the image. */
  @PrimaryColumn('varchar', {
    name: 'file_path',
    length: 255,
    primaryKeyConstraintName: 'chat_image_imports_pkey',
  })
  filePath!: string;

  @Column('varchar', { length: 16, default: 'waiting' })
  state!: ImportState;

  /** Why the file is not stored. */
  @Column('varchar', { length: 255, nullable: true })
  reason!: string | null;

  @Column('bigint', { name: 'chat_image_id', nullable: true })
  chatImageId!: number | null;

  @ManyToOne(() => ChatImage, { onDelete: 'SET NULL' })
  @JoinColumn({
    name: 'chat_image_id',
    foreignKeyConstraintName: 'chat_image_imports_chat_image_id_foreign',
  })
  chatImage?: Relation<ChatImage> | null;

  /** SHA-256 of the file in the source, in hexadecimal. */
  @Column({ type: 'char', name: 'source_sha256', length: 64, nullable: true })
  sourceSha256!: string | null;

  /** Where the old bytes of an object that was rewritten in place are kept: `version …` or `key …`. */
  @Column('varchar', { length: 1024, nullable: true })
  original!: string | null;

  @Column({ type: 'timestamptz', name: 'stored_at', precision: 3, nullable: true })
  storedAt!: Date | null;

  @UpdateDateColumn({ name: 'updated_at', type: 'timestamptz', precision: 3 })
  updatedAt!: Date;
}
