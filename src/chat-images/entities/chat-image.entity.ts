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

/** What a URL reads: the whole picture, or its thumbnail. */
export const VARIANTS = ['original', 'thumbnail'] as const;
export type Variant = (typeof VARIANTS)[number];

/** Whether a value from a request names a variant. */
export function isVariant(value: unknown): value is Variant {
  return (VARIANTS as readonly unknown[]).includes(value);
}

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
@Check(
  'chat_images_whole_thumbnail',
  'num_nulls(thumbnail_width, thumbnail_height, thumbnail_size, thumb_hash) IN (0, 4)',
)
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

  /** Pixels of the thumbnail; none where there is no thumbnail. Its key is `thumbnailKey` of the row. */
  @Column('integer', { name: 'thumbnail_width', nullable: true })
  thumbnailWidth!: number | null;

  @Column('integer', { name: 'thumbnail_height', nullable: true })
  thumbnailHeight!: number | null;

  /** Bytes of the thumbnail. */
  @Column('integer', { name: 'thumbnail_size', nullable: true })
  thumbnailSize!: number | null;

  /** ThumbHash in base64. */
  @Column('varchar', { name: 'thumb_hash', length: 40, nullable: true })
  thumbHash!: string | null;

  /**
   * Until when one process may make the missing thumbnail, or until when nobody tries again. Never deleted while an object may
   * have been written: with it, the key of the thumbnail is this service's.
   */
  @Column({ type: 'timestamptz', name: 'thumbnail_lease_until', precision: 3, nullable: true })
  thumbnailLeaseUntil!: Date | null;

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz', precision: 3 })
  createdAt!: Date;

  @UpdateDateColumn({ name: 'updated_at', type: 'timestamptz', precision: 3 })
  updatedAt!: Date;
}

/** What a statement selects to get a {@link ChatImage}. */
export const CHAT_IMAGE_COLUMNS = `id, appointment_id AS "appointmentId", text_session_id AS "textSessionId", file_path AS "filePath", filename,
  uploaded_by AS "uploadedBy", size, mime_type AS "mimeType", original_name AS "originalName", width, height, state,
  sha256_sent AS "sha256Sent", sha256_stored AS "sha256Stored", lease_until AS "leaseUntil", imported_as AS "importedAs",
  thumbnail_width AS "thumbnailWidth", thumbnail_height AS "thumbnailHeight", thumbnail_size AS "thumbnailSize", thumb_hash AS "thumbHash",
  thumbnail_lease_until AS "thumbnailLeaseUntil", created_at AS "createdAt", updated_at AS "updatedAt"`;

/** Whether this service may have written a thumbnail of a row. The condition of the index of thumbnails' keys, word for word. */
export const MAY_HAVE_THUMBNAIL = `(state <> 'stored' OR thumbnail_size IS NOT NULL OR thumbnail_lease_until IS NOT NULL)`;

/** How long one process may take to make a missing thumbnail. */
export const THUMBNAIL_LEASE_SECONDS = 60;

/** The longest `file_path`, in bytes, whose thumbnail's key fits a segment of a key and the column of tombstones. */
export const MAX_PATH_WITH_THUMBNAIL = 235;

/**
 * SQL: whether a missing thumbnail may be made, now or by the process that has the lease. A lease that is longer than a lease
 * says that making it has failed.
 *
 * @param image the alias of the row
 */
export const MAKEABLE_THUMBNAIL = (image: string): string =>
  `(octet_length(${image}.file_path) <= ${MAX_PATH_WITH_THUMBNAIL}
     AND coalesce(${image}.thumbnail_lease_until <= now() + interval '${THUMBNAIL_LEASE_SECONDS} seconds', true))`;

/** SQL: the key of a row's thumbnail, as `thumbnailKey` makes it. */
export const THUMBNAIL_KEY = 'chat_image_thumbnail_key(file_path, mime_type)';

/** The columns of an image that name its thumbnail. */
export type ThumbnailColumns = Pick<
  ChatImage,
  'thumbnailWidth' | 'thumbnailHeight' | 'thumbnailSize' | 'thumbHash'
>;

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
