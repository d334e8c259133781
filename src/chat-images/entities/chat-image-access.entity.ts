import { Column, Entity, Index, JoinColumn, ManyToOne, PrimaryGeneratedColumn, type Relation } from 'typeorm';
import { User } from '../../conversations/user.entity.js';
import { ChatImage, type Variant } from './chat-image.entity.js';

/** A row of the audit trail: a URL of this image was handed to this user at this time. */
@Entity('chat_image_access')
@Index('chat_image_access_chat_image_id_accessed_at_index', ['chatImageId', 'accessedAt'])
export class ChatImageAccess {
  @PrimaryGeneratedColumn({ type: 'int8', primaryKeyConstraintName: 'chat_image_access_pkey' })
  id!: number;

  @Column('bigint', { name: 'chat_image_id' })
  chatImageId!: number;

  @ManyToOne(() => ChatImage, { onDelete: 'CASCADE' })
  @JoinColumn({ name: 'chat_image_id', foreignKeyConstraintName: 'chat_image_access_chat_image_id_foreign' })
  chatImage?: Relation<ChatImage>;

  @Column('bigint', { name: 'accessed_by' })
  accessedBy!: number;

  @ManyToOne(() => User, { onDelete: 'CASCADE' })
  @JoinColumn({ name: 'accessed_by', foreignKeyConstraintName: 'chat_image_access_accessed_by_foreign' })
  user?: Relation<User>;

  /** What the URL reads: the picture or its thumbnail. */
  @Column('varchar', { length: 16, default: 'original' })
  variant!: Variant;

  @Column({ type: 'timestamptz', name: 'accessed_at', precision: 3, default: () => 'now()' })
  accessedAt!: Date;
}
