import { Inject, Injectable, Logger } from '@nestjs/common';
import { setTimeout } from 'node:timers/promises';
import { DataSource, type EntityManager, MoreThan, Not } from 'typeorm';
import type { AuthenticatedUser } from '../auth/jwt.strategy.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { isDatabaseUnavailable, sqlState } from '../database/database-failure.js';
import { AppError } from '../errors/app-error.js';
import { appointmentFolder, newFilename } from './chat-image-path.js';
import { ChatImageUploadKey } from './chat-image-upload-key.entity.js';
import { ChatImage } from './chat-image.entity.js';
import { ChatImagesService } from './chat-images.service.js';
import { ImagePreparer, type PreparedImage } from './image-preparer.js';
import { StorageProvider } from './storage/storage-provider.js';
import type { UploadForm } from './upload-form.js';

const UNIQUE_VIOLATION = '23505';
const FOREIGN_KEY_VIOLATION = '23503';

/** How often a new file name is drawn when it is taken. At 62^10 names a second, once is already rare. */
const FILENAME_ATTEMPTS = 3;

/** How long an upload waits for another of the same picture, and how often it looks. */
const TWIN_WAIT_MS = 25_000;
const TWIN_POLL_MS = 50;

/** An image, and whether it is this upload's own to store. */
type Claim = { readonly image: ChatImage; readonly own: boolean };

/**
 * The upload path. Who may take it has been decided by the guard before.
 *
 * A row is committed as pending before its object is written, and as stored after. So at every moment an object has a
 * row, whatever fails in between, and the sweeper finds by the row what is left to remove.
 */
@Injectable()
export class ChatImageUploadsService {
  private readonly logger = new Logger(ChatImageUploadsService.name);

  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    private readonly chatImages: ChatImagesService,
    private readonly preparer: ImagePreparer,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * Stores an uploaded picture. The same picture sent again within the settings' time, or with the same
   * `Idempotency-Key`, is the image that the first try made.
   *
   * @returns the image; a row of the audit trail for the URL that its answer holds is committed
   * @throws AppError INVALID_IMAGE, IDEMPOTENCY_KEY_REUSED, APPOINTMENT_NOT_FOUND when the appointment has just gone,
   *   OVERLOADED when another try of the same picture does not end
   */
  async upload(user: AuthenticatedUser, form: UploadForm): Promise<ChatImage> {
    const prepared = await this.preparer.prepare(form.bytes);
    const deadline = Date.now() + TWIN_WAIT_MS;
    for (;;) {
      const { image, own } = await this.claim(user, form, prepared);
      if (own) return this.store(user, image, prepared);
      if (image.state === 'stored' && (await this.chatImages.recordAccess(user, image))) return image;
      if (Date.now() > deadline) throw new AppError('OVERLOADED');
      await setTimeout(TWIN_POLL_MS);
    }
  }

  private async store(
    user: AuthenticatedUser,
    image: ChatImage,
    prepared: PreparedImage,
  ): Promise<ChatImage> {
    try {
      await this.storage.put(image.filePath, prepared.bytes, { contentType: image.mimeType });
      if (await this.commitStored(user, image)) return image;
    } catch (error) {
      await this.abandon(image.filename);
      throw error;
    }
    // The sweeper took this upload for one that a crash had left, and has removed its row: the object came after it.
    await this.storage.delete(image.filePath);
    throw new AppError('OVERLOADED');
  }

  /**
   * When this fails nobody knows whether it was committed.
   *
   * @returns whether the image is stored; otherwise it is no longer this upload's
   */
  private async commitStored(user: AuthenticatedUser, image: ChatImage): Promise<boolean> {
    const stored = await this.dataSource.query<unknown[]>(
      `WITH stored AS (
         UPDATE chat_images SET state = 'stored', updated_at = now() WHERE id = $1 AND state = 'pending' RETURNING id
       ), trail AS (
         INSERT INTO chat_image_access (chat_image_id, accessed_by) SELECT id, $2 FROM stored
       )
       SELECT id FROM stored`,
      [image.id, user.id],
    );
    return stored.length > 0;
  }

  /** Finds the image that an earlier try has made or is making, or commits a pending row for a new one. */
  private async claim(user: AuthenticatedUser, form: UploadForm, prepared: PreparedImage): Promise<Claim> {
    for (let attempt = 1; ; attempt += 1) {
      const filename = newFilename(new Date(), prepared.extension);
      try {
        return await this.dataSource.transaction((manager) =>
          this.claimWithin(manager, user, form, prepared, filename),
        );
      } catch (error) {
        // Its COMMIT may have taken effect all the same.
        if (isDatabaseUnavailable(error)) await this.abandon(filename);
        if (sqlState(error) === FOREIGN_KEY_VIOLATION)
          throw new AppError('APPOINTMENT_NOT_FOUND', { cause: error });
        if (sqlState(error) !== UNIQUE_VIOLATION || attempt === FILENAME_ATTEMPTS) throw error;
      }
    }
  }

  private async claimWithin(
    manager: EntityManager,
    user: AuthenticatedUser,
    form: UploadForm,
    prepared: PreparedImage,
    filename: string,
  ): Promise<Claim> {
    const { appointmentId, sha256, idempotencyKey } = form;
    // Copies that arrive at the same moment, on whichever instance, come one after the other from here on.
    if (idempotencyKey !== undefined) await lock(manager, `key ${user.id} ${idempotencyKey}`);
    await lock(manager, `picture ${user.id} ${appointmentId} ${sha256}`);

    const named =
      idempotencyKey === undefined ? undefined : await this.findByKey(manager, user, idempotencyKey);
    if (named && (named.sha256Sent !== sha256 || named.appointmentId !== appointmentId)) {
      throw new AppError('IDEMPOTENCY_KEY_REUSED');
    }
    const known = named ?? (await this.findTwin(manager, user, form));
    const image = known ?? (await this.insertPending(manager, user, form, prepared, filename));
    if (idempotencyKey !== undefined && !named) {
      await manager.upsert(
        ChatImageUploadKey,
        { uploadedBy: user.id, idempotencyKey, chatImageId: image.id, createdAt: new Date() },
        ['uploadedBy', 'idempotencyKey'],
      );
    }
    return { image, own: known === undefined };
  }

  private async findByKey(
    manager: EntityManager,
    user: AuthenticatedUser,
    idempotencyKey: string,
  ): Promise<ChatImage | undefined> {
    const key = await manager.findOne(ChatImageUploadKey, {
      where: {
        uploadedBy: user.id,
        idempotencyKey,
        createdAt: MoreThan(secondsAgo(IDEMPOTENCY_KEY_SECONDS)),
      },
      relations: { chatImage: true },
    });
    return key?.chatImage && !this.isLeftBehind(key.chatImage) ? key.chatImage : undefined;
  }

  private async findTwin(
    manager: EntityManager,
    user: AuthenticatedUser,
    form: UploadForm,
  ): Promise<ChatImage | undefined> {
    const twins = await manager.find(ChatImage, {
      where: {
        uploadedBy: user.id,
        appointmentId: form.appointmentId,
        sha256Sent: form.sha256,
        createdAt: MoreThan(secondsAgo(this.settings.uploads.dedupeSeconds)),
        state: Not('abandoned'),
      },
      order: { createdAt: 'DESC' },
    });
    return twins.find((twin) => !this.isLeftBehind(twin));
  }

  /** An upload that can no longer end is none to wait for. */
  private isLeftBehind(image: ChatImage): boolean {
    if (image.state === 'stored') return false;
    return image.state === 'abandoned' || image.createdAt < secondsAgo(this.settings.uploads.graceSeconds);
  }

  private async insertPending(
    manager: EntityManager,
    user: AuthenticatedUser,
    form: UploadForm,
    prepared: PreparedImage,
    filename: string,
  ): Promise<ChatImage> {
    const image = manager.create(ChatImage, {
      appointmentId: form.appointmentId,
      filePath: `${appointmentFolder(form.appointmentId)}/${filename}`,
      filename,
      uploadedBy: user.id,
      size: prepared.bytes.length,
      mimeType: prepared.mimeType,
      originalName: form.name,
      width: prepared.width,
      height: prepared.height,
      sha256Sent: form.sha256,
      sha256Stored: prepared.sha256,
      state: 'pending',
    });
    await manager.insert(ChatImage, image);
    return image;
  }

  /**
   * Gives up an upload that may have failed, unless it is stored after all, so that no retry waits for it. Its row and
   * its object are the sweeper's: a put that was given up may still arrive, and must find a row that tells of it. What
   * can't be given up stays pending, and is the sweeper's as well.
   */
  private async abandon(filename: string): Promise<void> {
    try {
      await this.dataSource.manager.update(ChatImage, { filename, state: 'pending' }, { state: 'abandoned' });
    } catch (error) {
      this.logger.warn(
        `the upload ${filename} stays pending: ${error instanceof Error ? error.name : 'unknown error'}`,
      );
    }
  }
}

/** For how long a client may repeat an upload by its `Idempotency-Key`. */
export const IDEMPOTENCY_KEY_SECONDS = 24 * 3600;

/** Held until the transaction ends. */
async function lock(manager: EntityManager, what: string): Promise<void> {
  await manager.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 0))', [`chat-image-upload ${what}`]);
}

function secondsAgo(seconds: number): Date {
  return new Date(Date.now() - seconds * 1000);
}
