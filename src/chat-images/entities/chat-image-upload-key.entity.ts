import {
  Column,
  CreateDateColumn,
  Entity,
  Index,
  JoinColumn,
  ManyToOne,
  PrimaryColumn,
  type Relation,
} from 'typeorm';
import { User } from '../../conversations/user.entity.js';
import { ChatImage } from './chat-image.entity.js';

/** The `Idempotency-Key` that a client sent with an upload, and the image that came of it. */
@Entity('chat_image_upload_keys')
@Index('chat_image_upload_keys_chat_image_id_index', ['chatImageId'])
@Index('chat_image_upload_keys_created_at_index', ['createdAt'])
export class ChatImageUploadKey {
  @PrimaryColumn('bigint', { name: 'uploaded_by', primaryKeyConstraintName: 'chat_image_upload_keys_pkey' })
  uploadedBy!: number;

  @ManyToOne(() => User, { onDelete: 'CASCADE' })
  @JoinColumn({ name: 'uploaded_by', foreignKeyConstraintName: 'chat_image_upload_keys_uploaded_by_foreign' })
  uploader?: Relation<User>;

  @PrimaryColumn('varchar', {
    name: 'idempotency_key',
    length: 255,
    primaryKeyConstraintName: 'chat_image_upload_keys_pkey',
  })
  idempotencyKey!: string;

  @Column('bigint', { name: 'chat_image_id' })
  chatImageId!: number;

  @ManyToOne(() => ChatImage, { onDelete: 'CASCADE' })
  @JoinColumn({
    name: 'chat_image_id',
    foreignKeyConstraintName: 'chat_image_upload_keys_chat_image_id_foreign',
  })
  chatImage?: Relation<ChatImage>;

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz', precision: 3 })
  createdAt!: Date;
}
