import { Column, CreateDateColumn, Entity, Index, PrimaryColumn } from 'typeorm';

/** The key of an object that this service wrote and whose row is gone: the sweeper deletes the object, then this. */
@Entity('chat_image_tombstones')
@Index('chat_image_tombstones_next_attempt_at_index', ['nextAttemptAt'])
export class ChatImageTombstone {
  @PrimaryColumn('varchar', {
    name: 'object_key',
    length: 255,
    primaryKeyConstraintName: 'chat_image_tombstones_pkey',
  })
  objectKey!: string;

  /** How often the sweeper has tried. */
  @Column('integer', { default: 0 })
  attempts!: number;

  /** From when on no late write can bring the object back. Until then the tombstone stays, and the object is deleted again. */
  @Column({ type: 'timestamptz', name: 'settled_at', precision: 3 })
  settledAt!: Date;

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz', precision: 3 })
  createdAt!: Date;

  /** Later after each failure. */
  @Column({ type: 'timestamptz', name: 'next_attempt_at', precision: 3, default: () => 'now()' })
  nextAttemptAt!: Date;
}
