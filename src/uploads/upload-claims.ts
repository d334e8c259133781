import { Inject, Injectable, Logger } from '@nestjs/common';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { DatabaseUnavailableError, sqlState } from '../database/database-failure.js';
import { preparedStatement, RequestDatabase, type RunStatement } from '../database/request-database.js';
import { AppError } from '../errors/app-error.js';
import { appointmentFolder, newFilename } from '../chat-images/entities/chat-image-path.js';
import { CHAT_IMAGE_COLUMNS, type ChatImage } from '../chat-images/entities/chat-image.entity.js';
import type { PreparedImage } from '../pictures/image-preparer.js';
import type { UploadForm } from './upload-form.js';
import { NEW_LEASE } from './upload-leases.js';

const UNIQUE_VIOLATION = '23505';
const FOREIGN_KEY_VIOLATION = '23503';

/** How often a new file name is drawn when it is taken. At 62^10 names a second, once is already rare. */
const FILENAME_ATTEMPTS = 3;

/** For how long a client may repeat an upload by its `Idempotency-Key`. */
export const IDEMPOTENCY_KEY_SECONDS = 24 * 3600;

/** An image, and whether it is this upload's own to store. */
export type Claim = { readonly image: ChatImage; readonly own: boolean };

/**
 * The end of a pending upload's lease. A row without a lease is of an older version, which may run at the same time.
 *
 * @param graceSeconds the parameter that holds the setting of this name
 */
const leaseEnd = (graceSeconds: string): string =>
  `coalesce(lease_until, created_at + make_interval(secs => ${graceSeconds}::int))`;

/**
 * Another upload of the same picture ($1 to $3 in every statement) that counts for one that is begun now.
 *
 * @param dedupeSeconds, graceSeconds the parameters that hold the settings of these names
 */
const isTwin = (dedupeSeconds: string, graceSeconds: string): string =>
  `uploaded_by = $1 AND appointment_id = $2 AND sha256_sent = $3
   AND created_at > now() - make_interval(secs => ${dedupeSeconds}::int)
   AND (state = 'stored' OR state = 'pending' AND ${leaseEnd(graceSeconds)} >= now())`;

const NEW_ROW = `uploaded_by, appointment_id, sha256_sent, sha256_stored, file_path, filename, size, mime_type,
  original_name, width, height, state`;
const NEW_VALUES = '$1::bigint, $2::bigint, $3::char(64), $4, $5, $6, $7::int, $8, $9, $10::int, $11::int';

/**
 * Finds the image that an earlier try has made or is making, or commits a pending row for a new one. No row at all when
 * another upload of the picture is pending that this one did not see yet, or whose lease has ended.
 */
const CLAIM = preparedStatement(
  'claim-upload',
  `WITH twin AS (
     SELECT * FROM chat_images WHERE ${isTwin('$12', '$13')} ORDER BY created_at DESC LIMIT 1
   ), own AS (
     INSERT INTO chat_images (${NEW_ROW}, lease_until)
     SELECT ${NEW_VALUES}, 'pending', ${NEW_LEASE} WHERE NOT EXISTS (SELECT FROM twin)
     ON CONFLICT (uploaded_by, appointment_id, sha256_sent) WHERE state = 'pending' DO NOTHING
     RETURNING *
   )
   SELECT ${CHAT_IMAGE_COLUMNS}, false AS own FROM twin UNION ALL SELECT ${CHAT_IMAGE_COLUMNS}, true FROM own`,
);

/**
 * Makes sure that a claim without an answer claims nothing, also when the network delivers it only later: its file name
 * is taken then.
 */
const REVOKE_CLAIM = preparedStatement(
  'revoke-claim',
  `INSERT INTO chat_images (${NEW_ROW}) VALUES (${NEW_VALUES}, 'abandoned')
   ON CONFLICT (filename) DO UPDATE SET state = 'abandoned' WHERE chat_images.state = 'pending'`,
);

/** Gives up a pending upload of the picture whose lease has ended, so that the next claim finds its place free. */
const ABANDON_LEFT_BEHIND = preparedStatement(
  'abandon-left-behind',
  `
    UPDATE chat_images SET state = 'abandoned'
    WHERE uploaded_by = $1 AND appointment_id = $2 AND sha256_sent = $3 AND state = 'pending'
      AND ${leaseEnd('$4')} < now()`,
);

/**
 * Makes an image stored and writes the audit row of the URL in its answer. No row when the image is no longer pending, or
 * when a twin has become stored between the claim's look and its insert.
 */
const COMMIT_STORED = preparedStatement(
  'commit-stored',
  `WITH stored AS (
     UPDATE chat_images SET state = 'stored', lease_until = NULL, updated_at = now()
     WHERE id = $6 AND state = 'pending'
       AND NOT EXISTS (SELECT FROM chat_images WHERE ${isTwin('$4', '$5')} AND state = 'stored')
     RETURNING id, uploaded_by
   ), trail AS (
     INSERT INTO chat_image_access (chat_image_id, accessed_by) SELECT id, uploaded_by FROM stored
   )
   SELECT id FROM stored`,
);

/** Gives up an upload, unless it is stored after all. */
const ABANDON = preparedStatement(
  'abandon-upload',
  `UPDATE chat_images SET state = 'abandoned' WHERE filename = $1 AND state = 'pending'`,
);

/** Tells the sweeper of an object that came after its row was gone. */
const LEAVE_TOMBSTONE = preparedStatement(
  'leave-tombstone',
  `WITH tombstone AS (
     INSERT INTO chat_image_tombstones (object_key, settled_at)
     SELECT $1::varchar, now() WHERE NOT EXISTS (SELECT FROM chat_images WHERE filename = $2)
     ON CONFLICT (object_key) DO NOTHING
   )
   SELECT id FROM appointments WHERE id = $3::bigint`,
);

/** One after the other for the same key, on whichever instance, until the transaction ends. */
const LOCK_KEY = preparedStatement(
  'lock-upload-key',
  'SELECT pg_advisory_xact_lock(hashtextextended($1, 0))',
);

/** The image of an earlier upload with the key. An upload that can no longer end names no image. */
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

/** Writes the audit row for the answer to a repeated upload. No row when the image is no longer there. */
const RECORD_ACCESS = preparedStatement(
  'record-access',
  `
    WITH image AS (
      SELECT id FROM chat_images WHERE id = $1::bigint AND state = 'stored'
    ), trail AS (
      INSERT INTO chat_image_access (chat_image_id, accessed_by) SELECT id, $2::bigint FROM image
    )
    SELECT id FROM image`,
);

/**
 * The rows of uploads under way, and who owns them: of several uploads of the same picture, one stores it and the
 * others answer with what it stored.
 */
@Injectable()
export class UploadClaims {
  private readonly logger = new Logger(UploadClaims.name);

  constructor(
    private readonly database: RequestDatabase,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * @returns the image of an earlier try, or a new one, pending, of this upload's own; `undefined` while neither is to
   *   be had, because another upload of the picture is in the way and will end or be given up
   * @throws AppError IDEMPOTENCY_KEY_REUSED; APPOINTMENT_NOT_FOUND when the appointment has just gone
   */
  async claim(
    user: AuthenticatedUser,
    form: UploadForm,
    prepared: PreparedImage,
  ): Promise<Claim | undefined> {
    const sent = { appointmentId: form.appointmentId, sha256Sent: prepared.sha256Sent };
    for (let attempt = 1; ; attempt += 1) {
      const filename = newFilename(new Date(), prepared.extension);
      const row = newRow(user, form, prepared, filename);
      const values = [...row, ...this.limits];
      try {
        const claim =
          form.idempotencyKey === undefined
            ? toClaim(await this.database.run<ClaimRow>(CLAIM, values))
            : await this.claimByKey(user, sent, form.idempotencyKey, values);
        if (!claim) await this.abandonLeftBehind(user, sent);
        return claim;
      } catch (error) {
        // Its commit may have taken effect all the same, or may still do so.
        if (error instanceof DatabaseUnavailableError)
          await this.attempt(filename, () => this.database.run(REVOKE_CLAIM, row));
        if (sqlState(error) === FOREIGN_KEY_VIOLATION)
          throw new AppError('APPOINTMENT_NOT_FOUND', { cause: error });
        if (sqlState(error) !== UNIQUE_VIOLATION || attempt === FILENAME_ATTEMPTS) throw error;
      }
    }
  }

  /**
   * When this fails nobody knows whether it was committed.
   *
   * @returns whether the image is stored, and its audit row with it; otherwise it is no longer this upload's
   */
  async commitStored(user: AuthenticatedUser, image: ChatImage): Promise<boolean> {
    const { appointmentId, sha256Sent, id } = image;
    const stored = await this.database.run(COMMIT_STORED, [
      user.id,
      appointmentId,
      sha256Sent,
      ...this.limits,
      id,
    ]);
    return stored.length > 0;
  }

  /** @returns whether the image is still there, and its audit row committed */
  async recordAccess(user: AuthenticatedUser, image: ChatImage): Promise<boolean> {
    return (await this.database.run(RECORD_ACCESS, [image.id, user.id])).length > 0;
  }

  /**
   * Gives up an upload that may have failed, unless it is stored after all, so that no retry waits for it. Its row and
   * its object are the sweeper's: a put that was given up may still arrive, and must find a row that tells of it. What
   * can't be given up stays pending, and is the sweeper's as well.
   */
  async abandon({ filename }: ChatImage): Promise<void> {
    await this.attempt(filename, () => this.database.run(ABANDON, [filename]));
  }

  /**
   * Leaves an object to the sweeper that was written after its row was gone. Where the row is still there it tells enough.
   *
   * @throws AppError APPOINTMENT_NOT_FOUND when the row has gone with its appointment
   */
  async leaveTombstone({ filePath, filename, appointmentId }: ChatImage): Promise<void> {
    const appointments = await this.database.run(LEAVE_TOMBSTONE, [filePath, filename, appointmentId]);
    if (appointments.length === 0) throw new AppError('APPOINTMENT_NOT_FOUND');
  }

  private async attempt(filename: string, giveUp: () => Promise<unknown>): Promise<void> {
    try {
      await giveUp();
    } catch (error) {
      this.logger.warn(
        `the upload ${filename} stays pending: ${error instanceof Error ? error.name : 'unknown error'}`,
      );
    }
  }

  private async abandonLeftBehind(
    user: AuthenticatedUser,
    { appointmentId, sha256Sent }: SentPicture,
  ): Promise<void> {
    const { graceSeconds } = this.settings.uploads;
    await this.database.run(ABANDON_LEFT_BEHIND, [user.id, appointmentId, sha256Sent, graceSeconds]);
  }

  private claimByKey(
    user: AuthenticatedUser,
    { appointmentId, sha256Sent }: SentPicture,
    key: string,
    values: readonly unknown[],
  ): Promise<Claim | undefined> {
    return this.database.transaction(async (run) => {
      await run(LOCK_KEY, [`chat-image-upload key ${user.id} ${key}`]);
      const named = await this.findByKey(run, user, key);
      if (named) {
        if (named.sha256Sent === sha256Sent && named.appointmentId === appointmentId)
          return { image: named, own: false };
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

  /** The parameters of {@link isTwin}. */
  private get limits(): readonly [dedupeSeconds: number, graceSeconds: number] {
    const { dedupeSeconds, graceSeconds } = this.settings.uploads;
    return [dedupeSeconds, graceSeconds];
  }
}

/** A duplicate upload has the same user, appointment and digest. */
type SentPicture = Pick<ChatImage, 'appointmentId' | 'sha256Sent'>;

/** The values for {@link NEW_ROW}, but the state. */
function newRow(
  user: AuthenticatedUser,
  form: UploadForm,
  prepared: PreparedImage,
  filename: string,
): readonly unknown[] {
  return [
    user.id,
    form.appointmentId,
    prepared.sha256Sent,
    prepared.sha256,
    `${appointmentFolder(form.appointmentId)}/${filename}`,
    filename,
    prepared.size,
    prepared.mimeType,
    form.name,
    prepared.width,
    prepared.height,
  ];
}

type ClaimRow = ChatImage & { readonly own: boolean };

function toClaim([row]: readonly ClaimRow[]): Claim | undefined {
  if (!row) return undefined;
  const { own, ...image } = row;
  return { image, own };
}
