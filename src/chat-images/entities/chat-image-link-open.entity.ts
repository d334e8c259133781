import { Column, Entity, Index, JoinColumn, ManyToOne, PrimaryGeneratedColumn, type Relation } from 'typeorm';
import { ChatImage, type Variant } from './chat-image.entity.js';

/** A stable address was opened without a token, so by nobody that is known: by which app, from which network. */
@Entity('chat_image_link_opens')
@Index('chat_image_link_opens_chat_image_id_index', ['chatImageId'])
@Index('chat_image_link_opens_opened_at_index', ['openedAt'])
export class ChatImageLinkOpen {
  @PrimaryGeneratedColumn({ type: 'int8', primaryKeyConstraintName: 'chat_image_link_opens_pkey' })
  id!: number;

  /** None for an old picture that is not here yet: its request was sent on to where it is public. */
  @Column('bigint', { name: 'chat_image_id', nullable: true })
  chatImageId!: number | null;

  @ManyToOne(() => ChatImage, { onDelete: 'CASCADE' })
  @JoinColumn({
    name: 'chat_image_id',
    foreignKeyConstraintName: 'chat_image_link_opens_chat_image_id_foreign',
  })
  chatImage?: Relation<ChatImage> | null;

  @Column({ type: 'timestamptz', name: 'opened_at', precision: 3, default: () => 'now()' })
  openedAt!: Date;

  /** What the URL reads: the picture or its thumbnail. */
  @Column('varchar', { length: 16, default: 'original' })
  variant!: Variant;

  /** `X-App-Version`, else the user agent, shortened. */
  @Column('varchar', { name: 'app_version', length: 100 })
  appVersion!: string;

  /** An IPv4 address, or the /64 of an IPv6 one. */
  @Column('varchar', { name: 'client_network', length: 50 })
  clientNetwork!: string;
}
