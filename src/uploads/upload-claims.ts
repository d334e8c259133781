import { Inject, Injectable, Logger } from '@nestjs/common';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { type Conversation, conversationNotFound } from '../conversations/conversation.js';
import { DatabaseUnavailableError, sqlState } from '../database/database-failure.js';
import { type PreparedStatement, preparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase, type RunStatement } from '../database/request-database.js';
import { AppError } from '../errors/app-error.js';
import { conversationFolder, newFilename, thumbnailKey } from '../chat-images/entities/chat-image-path.js';
import {
  CHAT_IMAGE_COLUMNS,
  type ChatImage,
  conversationColumns,
  type ConversationColumns,
  conversationOf,
} from '../chat-images/entities/chat-image.entity.js';
import type { PreparedImage } from '../pictures/image-preparer.js';
import type { UploadForm } from './upload-form.js';
import { NEW_LEASE } from './upload-leases.js';

const FOREIGN_KEY_VIOLATION = '23503';

/** For how long a client may repeat an upload by its `Idempotency-Key`. */
export const IDEMPOTENCY_KEY_SECONDS = 24 * 3600;

/** An image, and whether it is new: then this upload must store it. Otherwise the upload is a duplicate of it. */
export type Claim = { readonly image: ChatImage; readonly isNew: boolean };

/**
 * The end of a pending upload's lease. A row without a lease is from an older version, which may run at the same time.
 *
 * @param graceSeconds the parameter that holds the setting of this name
 */
const leaseEnd = (graceSeconds: string): string =>
  `coalesce(lease_until, created_at + make_interval(secs => ${graceSeconds}::int))`;

/** Whether a row is of the same picture: user, conversation and digest are $1 to $4 in every statement. */
const IS_SAME_PICTURE = `uploaded_by = $1 AND sha256_sent = $4::char(64)
   AND appointment_id IS NOT DISTINCT FROM $2::bigint AND text_session_id IS NOT DISTINCT FROM $3::bigint`;

/**
 * Whether a row makes a new upload of the same picture a duplicate.
 *
 * @param dedupeSeconds, graceSeconds the parameters that hold the settings of these names
 */
const isOriginal = (dedupeSeconds: string, graceSeconds: string): string =>
  `${IS_SAME_PICTURE}
   AND created_at > now() - make_interval(secs => ${dedupeSeconds}::int)
   AND (state = 'stored' OR state = 'pending' AND ${leaseEnd(graceSeconds)} >= now())`;

const NEW_ROW = `uploaded_by, appointment_id, text_session_id, sha256_sent, sha256_stored, file_path, filename, size,
  mime_type, original_name, width, height, state`;
const NEW_VALUES =
  '$1::bigint, $2::bigint, $3::bigint, $4::char(64), $5, $6, $7, $8::int, $9, $10, $11::int, $12::int';

/**
 * Finds the image of which this upload is a duplicate, or commits a pending row for a new image. The result has no row when
 * another upload of the picture is pending that this statement did not see yet, or that is stale, or when the file name is
 * taken. Then the caller claims again, with a new file name.
 */
const CLAIM = preparedStatement(
  'claim-upload',
  `WITH original AS (
     SELECT * FROM chat_images WHERE ${isOriginal('$13', '$14')} ORDER BY created_at DESC LIMIT 1
   ), new_image AS (
     INSERT INTO chat_images (${NEW_ROW}, lease_until)
     SELECT ${NEW_VALUES}, 'pending', ${NEW_LEASE} WHERE NOT EXISTS (SELECT FROM original)
     ON CONFLICT DO NOTHING
     RETURNING *
   )
   SELECT ${CHAT_IMAGE_COLUMNS}, false AS "isNew" FROM original
   UNION ALL SELECT ${CHAT_IMAGE_COLUMNS}, true FROM new_image`,
);

/**
 * Cancels a claim whose result was lost. Where the network delivers the claim later, its file name is taken, so the claim
 * writes nothing.
 */
const REVOKE_CLAIM = preparedStatement(
  'revoke-claim',
  `INSERT INTO chat_images (${NEW_ROW}) VALUES (${NEW_VALUES}, 'abandoned')
   ON CONFLICT (filename) DO UPDATE SET state = 'abandoned' WHERE chat_images.state = 'pending'`,
);

/** Abandons a stale upload of the picture: pending, with a lease that has ended. The next claim then finds its place free. */
const ABANDON_STALE = preparedStatement(
  'abandon-stale',
  `
    UPDATE chat_images SET state = 'abandoned'
    WHERE ${IS_SAME_PICTURE} AND state = 'pending' AND ${leaseEnd('$5')} < now()`,
);

/**
 * Makes an image stored. The result has no row when the image is no longer pending, or when a duplicate was stored between
 * the look and the insert of the claim.
 */
const COMMIT_STORED = preparedStatement(
  'commit-stored',
  `UPDATE chat_images SET state = 'stored', lease_until = NULL, thumbnail_width = $8::int, thumbnail_height = $9::int,
     thumbnail_size = $10::int, thumb_hash = $11, updated_at = now()
   WHERE id = $7 AND state = 'pending'
     AND NOT EXISTS (SELECT FROM chat_images WHERE ${isOriginal('$5', '$6')} AND state = 'stored')
   RETURNING id`,
);

/** Abandons an upload, unless it is stored. */
const ABANDON = preparedStatement(
  'abandon-upload',
  `UPDATE chat_images SET state = 'abandoned' WHERE filename = $1 AND state = 'pending'`,
);

/**
 * Tells the sweeper about objects that were written after their row was deleted. The result has a row where the conversation
 * still exists.
 */
const leaveTombstone = (table: 'appointments' | 'text_sessions'): PreparedStatement =>
  preparedStatement(
    `leave-tombstone-${table}`,
    `WITH tombstone AS (
     INSERT INTO chat_image_tombstones (object_key, settled_at)
     SELECT unnest($1::text[]), now() WHERE NOT EXISTS (SELECT FROM chat_images WHERE filename = $2)
     ON CONFLICT (object_key) DO NOTHING
   )
   SELECT id FROM ${table} WHERE id = $3::bigint`,
  );

const LEAVE_TOMBSTONE: Readonly<Record<Conversation['kind'], PreparedStatement>> = {
  appointment: leaveTombstone('appointments'),
  'text session': leaveTombstone('text_sessions'),
};

/** Transactions with the same key run one after the other, on all instances. */
const LOCK_KEY = preparedStatement(
  'lock-upload-key',
  'SELECT pg_advisory_xact_lock(hashtextextended($1, 0))',
);

/** The image of an earlier upload with the key. An abandoned or stale upload is no image. */
const FIND_BY_KEY = preparedStatement(
  'find-by-upload-key',
  `SELECT ${CHAT_IMAGE_COLUMNS} FROM chat_images WHERE id = (
     SELECT chat_image_id FROM chat_image_upload_keys
     WHERE uploaded_by = $1 AND idempotency_key = $2 AND created_at > now() - make_interval(secs => $3::int)
   ) AND (state = 'stored' OR state = 'pending' AND ${leaseEnd('$4')} >= now())`,
);

const REMEMBER_KEY = preparedStatement(
  'remember-upload-key',
  `INSERT INTO chat_image_upload_keys (uploaded_by, idempotency_key, chat_image_id) VALUES ($1, $2, $3)
   ON CONFLICT (uploaded_by, idempotency_key) DO UPDATE SET chat_image_id = $3, created_at = now()`,
);

/**
 * The rows of uploads. Of several uploads of the same picture one stores the picture. The others are duplicates, and answer
 * with the image that the first one stored.
 */
@Injectable()
export class UploadClaims {
  private readonly logger = new Logger(UploadClaims.name);

  constructor(
    private readonly database: RequestDatabase,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * @returns the image of which the upload is a duplicate, or a new image, pending; `undefined` where another upload of the
   *   picture is in the way, which will end or be abandoned, or where the file name is taken: the next claim has a new one
   * @throws AppError IDEMPOTENCY_KEY_REUSED; APPOINTMENT_NOT_FOUND when the conversation was just deleted
   */
  async claim(
    user: AuthenticatedUser,
    form: UploadForm,
    prepared: PreparedImage,
  ): Promise<Claim | undefined> {
    const picture = { ...conversationColumns(form.conversation), sha256Sent: prepared.sha256Sent };
    const filename = newFilename(new Date(), prepared.extension);
    const row = newRow(user, picture, form, prepared, filename);
    const values = [...row, ...this.limits];
    try {
      const claim =
        form.idempotencyKey === undefined
          ? toClaim(await this.database.run<ClaimRow>(CLAIM, values))
          : await this.claimByKey(user, picture, form.idempotencyKey, values);
      if (!claim) await this.abandonStale(user, picture);
      return claim;
    } catch (error) {
      // The claim may be committed all the same, or may still be.
      if (error instanceof DatabaseUnavailableError)
        await this.attempt(filename, () => this.database.run(REVOKE_CLAIM, row));
      if (sqlState(error) === FOREIGN_KEY_VIOLATION) throw conversationNotFound(form.conversation, error);
      throw error;
    }
  }

  /**
   * Makes the image stored. When this fails, nobody knows whether it was committed.
   *
   * @returns whether the image is stored; otherwise this upload has lost its row
   */
  async commitStored(user: AuthenticatedUser, image: ChatImage): Promise<boolean> {
    const { thumbnailWidth, thumbnailHeight, thumbnailSize, thumbHash } = image;
    const thumbnail = [thumbnailWidth, thumbnailHeight, thumbnailSize, thumbHash];
    const values = [...pictureValues(user, image), ...this.limits, image.id, ...thumbnail];
    return (await this.database.run(COMMIT_STORED, values)).length > 0;
  }

  /**
   * Abandons an upload that may have failed, unless it is stored, so that no duplicate waits for it. The row stays: a PUT
   * that timed out may still reach the storage, and the sweeper needs the row to find and delete that object. An upload
   * that can't be abandoned now stays pending, and the sweeper abandons it.
   */
  async abandon({ filename }: ChatImage): Promise<void> {
    await this.attempt(filename, () => this.database.run(ABANDON, [filename]));
  }

  /**
   * Leaves tombstones for a picture and its thumbnail that were written after their row was deleted. Where the row is still
   * there, the row is enough.
   *
   * @throws AppError APPOINTMENT_NOT_FOUND when the row was deleted with its conversation
   */
  async leaveTombstone(image: ChatImage): Promise<void> {
    const { filePath, mimeType, thumbnailSize, filename } = image;
    const keys = [filePath, ...(thumbnailSize === null ? [] : [thumbnailKey(filePath, mimeType)])];
    const conversation = conversationOf(image);
    const values = [keys, filename, conversation.id];
    const found = await this.database.run(LEAVE_TOMBSTONE[conversation.kind], values);
    if (found.length === 0) throw conversationNotFound(conversation);
  }

  private async attempt(filename: string, abandon: () => Promise<unknown>): Promise<void> {
    try {
      await abandon();
    } catch (error) {
      this.logger.warn(
        `the upload ${filename} stays pending: ${error instanceof Error ? error.name : 'unknown error'}`,
      );
    }
  }

  private async abandonStale(user: AuthenticatedUser, picture: SentPicture): Promise<void> {
    const { graceSeconds } = this.settings.uploads;
    await this.database.run(ABANDON_STALE, [...pictureValues(user, picture), graceSeconds]);
  }

  private claimByKey(
    user: AuthenticatedUser,
    { appointmentId, textSessionId, sha256Sent }: SentPicture,
    key: string,
    values: readonly unknown[],
  ): Promise<Claim | undefined> {
    return this.database.transaction(async (run) => {
      await run(LOCK_KEY, [`chat-image-upload key ${user.id} ${key}`]);
      const named = await this.findByKey(run, user, key);
      if (named) {
        const isSame =
          named.sha256Sent === sha256Sent &&
          named.appointmentId === appointmentId &&
          named.textSessionId === textSessionId;
        if (isSame) return { image: named, isNew: false };
        throw new AppError('IDEMPOTENCY_KEY_REUSED');
      }
      const claim = toClaim(await run<ClaimRow>(CLAIM, values));
      if (claim) await run(REMEMBER_KEY, [user.id, key, claim.image.id]);
      return claim;
    });
  }

  private async findByKey(
    run: RunStatement,
    user: AuthenticatedUser,
    key: string,
  ): Promise<ChatImage | undefined> {
    const limits = [IDEMPOTENCY_KEY_SECONDS, this.settings.uploads.graceSeconds];
    const [image] = await run<ChatImage>(FIND_BY_KEY, [user.id, key, ...limits]);
    return image;
  }

  /** The last parameters of {@link isOriginal}. */
  private get limits(): readonly [dedupeSeconds: number, graceSeconds: number] {
    const { dedupeSeconds, graceSeconds } = this.settings.uploads;
    return [dedupeSeconds, graceSeconds];
  }
}

/** A duplicate upload has the same user, conversation and digest. */
type SentPicture = ConversationColumns & Pick<ChatImage, 'sha256Sent'>;

/** The values for {@link IS_SAME_PICTURE}. */
function pictureValues(
  user: AuthenticatedUser,
  { appointmentId, textSessionId, sha256Sent }: SentPicture,
): readonly unknown[] {
  return [user.id, appointmentId, textSessionId, sha256Sent];
}

/** The values for {@link NEW_ROW}, but the state. */
function newRow(
  user: AuthenticatedUser,
  picture: SentPicture,
  { conversation, name }: UploadForm,
  prepared: PreparedImage,
  filename: string,
): readonly unknown[] {
  return [
    ...pictureValues(user, picture),
    prepared.sha256,
    `${conversationFolder(conversation)}/${filename}`,
    filename,
    prepared.size,
    prepared.mimeType,
    name,
    prepared.width,
    prepared.height,
  ];
}

type ClaimRow = ChatImage & Pick<Claim, 'isNew'>;

function toClaim([row]: readonly ClaimRow[]): Claim | undefined {
  if (!row) return undefined;
  const { isNew, ...image } = row;
  return { image, isNew };
}
