import {
  Check,
  Column,
  CreateDateColumn,
  Entity,
  Index,
  JoinColumn,
  ManyToOne,
  PrimaryGeneratedColumn,
  type Relation,
  UpdateDateColumn,
} from 'typeorm';
import { Appointment } from '../../conversations/appointment.entity.js';
import { TextSession } from '../../conversations/text-session.entity.js';
import type { Conversation } from '../../conversations/conversation.js';
import { User } from '../../conversations/user.entity.js';

/**
 * `pending` while the object is being written; only `stored` images exist for readers; `abandoned` while the sweeper
 * removes what a crash has left.
 */
export type ChatImageState = 'pending' | 'stored' | 'abandoned';

/**
 * How an old picture was brought in: `cleaned` as an upload is, `kept` to the byte, or `unchecked`, because an upload would
 * refuse it.
 */
export type ImportedAs = 'cleaned' | 'kept' | 'unchecked';

/** A picture of a conversation's chat: an appointment's or a text session's. Its bytes are in the storage, under `filePath`. */
@Entity('chat_images')
@Index('chat_images_appointment_id_created_at_index', ['appointmentId', 'createdAt'])
@Index('chat_images_filename_unique', ['filename'], { unique: true })
@Index('chat_images_file_path_index', ['filePath'])
@Index('chat_images_uploaded_by_sha256_sent_index', ['uploadedBy', 'sha256Sent', 'createdAt'])
@Index('chat_images_pending_picture_unique', ['uploadedBy', 'appointmentId', 'sha256Sent'], {
  unique: true,
  where: `(state)::text = 'pending'::text`,
})
@Index('chat_images_text_session_id_created_at_index', ['textSessionId', 'createdAt'])
@Index('chat_images_pending_picture_of_session_unique', ['uploadedBy', 'textSessionId', 'sha256Sent'], {
  unique: true,
  where: `(state)::text = 'pending'::text`,
})
@Check('chat_images_one_conversation', 'num_nonnulls(appointment_id, text_session_id) = 1')
@Index('chat_images_unfinished_index', ['createdAt'], { where: `(state)::text <> 'stored'::text` })
export class ChatImage {
  // By this name of bigint, because TypeORM turns a generated `bigint` into text after an insert.
  @PrimaryGeneratedColumn({ type: 'int8', primaryKeyConstraintName: 'chat_images_pkey' })
  id!: number;

  /** None for a picture of a text session. */
  @Column('bigint', { name: 'appointment_id', nullable: true })
  appointmentId!: number | null;

  @ManyToOne(() => Appointment, { onDelete: 'CASCADE' })
  @JoinColumn({ name: 'appointment_id', foreignKeyConstraintName: 'chat_images_appointment_id_foreign' })
  appointment?: Relation<Appointment> | null;

  /** None for a picture of an appointment. */
  @Column('bigint', { name: 'text_session_id', nullable: true })
  textSessionId!: number | null;

  @ManyToOne(() => TextSession, { onDelete: 'CASCADE' })
  @JoinColumn({ name: 'text_session_id', foreignKeyConstraintName: 'chat_images_text_session_id_foreign' })
  textSession?: Relation<TextSession> | null;

  /** The key of the object in the storage. */
  @Column('varchar', { name: 'file_path', length: 255 })
  filePath!: string;

  /** The last segment of `filePath`; unique, because old clients name an image by it. */
  @Column('varchar', { length: 255 })
  filename!: string;

  @Column('bigint', { name: 'uploaded_by' })
  uploadedBy!: number;

  @ManyToOne(() => User, { onDelete: 'CASCADE' })
  @JoinColumn({ name: 'uploaded_by', foreignKeyConstraintName: 'chat_images_uploaded_by_foreign' })
  uploader?: Relation<User>;

  /** Bytes of the stored object. */
  @Column('integer')
  size!: number;

  /** The type found in the bytes, never the one that the client declared. */
  @Column('varchar', { name: 'mime_type', length: 255 })
  mimeType!: string;

  /** The name that the client gave the file. */
  @Column('varchar', { name: 'original_name', length: 255, default: '' })
  originalName!: string;

  /** Pixels, as a viewer shows the picture. */
  @Column('integer', { default: 0 })
  width!: number;

  /** Pixels, as a viewer shows the picture. */
  @Column('integer', { default: 0 })
  height!: number;

  @Column('varchar', { length: 16, default: 'stored' })
  state!: ChatImageState;

  /** SHA-256 of the bytes that the client sent, in hexadecimal; none for images of the time before it was kept. */
  @Column({ type: 'char', name: 'sha256_sent', length: 64, nullable: true })
  sha256Sent!: string | null;

  /** SHA-256 of the bytes in the storage, in hexadecimal; only where this service has written them to `filePath`. */
  @Column({ type: 'char', name: 'sha256_stored', length: 64, nullable: true })
  sha256Stored!: string | null;

  /** The end of the upload's lease, by the database's clock; none for stored images. */
  @Column({ type: 'timestamptz', name: 'lease_until', precision: 3, nullable: true })
  leaseUntil!: Date | null;

  /** None for an upload. */
  @Column('varchar', { name: 'imported_as', length: 16, nullable: true })
  importedAs!: ImportedAs | null;

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz', precision: 3 })
  createdAt!: Date;

  @UpdateDateColumn({ name: 'updated_at', type: 'timestamptz', precision: 3 })
  updatedAt!: Date;
}

/** What a statement selects to get a {@link ChatImage}. */
export const CHAT_IMAGE_COLUMNS = `id, appointment_id AS "appointmentId", text_session_id AS "textSessionId", file_path AS "filePath", filename,
  uploaded_by AS "uploadedBy", size, mime_type AS "mimeType", original_name AS "originalName", width, height, state,
  sha256_sent AS "sha256Sent", sha256_stored AS "sha256Stored", lease_until AS "leaseUntil", imported_as AS "importedAs", created_at AS "createdAt", updated_at AS "updatedAt"`;

/** The columns of an image that name its conversation. */
export type ConversationColumns = Pick<ChatImage, 'appointmentId' | 'textSessionId'>;

/** The conversation of an image. A check constraint of the table holds that there is exactly one. */
export function conversationOf({ appointmentId, textSessionId }: ConversationColumns): Conversation {
  if (appointmentId !== null) return { kind: 'appointment', id: appointmentId };
  if (textSessionId !== null) return { kind: 'text session', id: textSessionId };
  throw new Error('The image has no conversation.');
}

/** The inverse of {@link conversationOf}. */
export function conversationColumns({ kind, id }: Conversation): ConversationColumns {
  return kind === 'appointment'
    ? { appointmentId: id, textSessionId: null }
    : { appointmentId: null, textSessionId: id };
}
