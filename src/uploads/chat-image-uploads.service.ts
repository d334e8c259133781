import { Injectable } from '@nestjs/common';
import { setTimeout } from 'node:timers/promises';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { AppError } from '../errors/app-error.js';
import type { ChatImage } from '../chat-images/entities/chat-image.entity.js';
import { ImagePreparer, type PreparedImage } from '../pictures/image-preparer.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { UploadClaims } from './upload-claims.js';
import type { UploadForm } from './upload-form.js';
import { UploadLeases } from './upload-leases.js';

/** How long an upload waits for another of the same picture, and how often it looks. */
const TWIN_WAIT_MS = 25_000;
const TWIN_POLL_MS = 50;

/**
 * The upload path. Who may take it has been decided by the guard before.
 *
 * A row is committed as pending before its object is written, and as stored after. So at every moment an object has a
 * row, whatever fails in between, and the sweeper finds by the row what is left to remove.
 */
@Injectable()
export class ChatImageUploadsService {
  constructor(
    private readonly storage: StorageProvider,
    private readonly claims: UploadClaims,
    private readonly leases: UploadLeases,
    private readonly preparer: ImagePreparer,
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
    const prepared = await this.preparer.prepare(form.pieces, { userId: user.id, left: form.left });
    const deadline = performance.now() + TWIN_WAIT_MS;
    for (;;) {
      const claim = await this.claims.claim(user, form, prepared);
      if (claim?.own) {
        const { image } = claim;
        return this.leases.renewDuring(image.id, () => this.store(user, image, prepared));
      }
      if (claim?.image.state === 'stored' && (await this.claims.recordAccess(user, claim.image)))
        return claim.image;
      if (performance.now() > deadline) throw new AppError('OVERLOADED');
      await setTimeout(TWIN_POLL_MS);
    }
  }

  private async store(
    user: AuthenticatedUser,
    image: ChatImage,
    prepared: PreparedImage,
  ): Promise<ChatImage> {
    try {
      await this.storage.put(image.filePath, prepared.pieces, {
        contentType: image.mimeType,
        sha256: prepared.sha256,
        md5: prepared.md5,
      });
      if (await this.claims.commitStored(user, image)) return image;
    } catch (error) {
      await this.claims.abandon(image);
      throw error;
    }
    // The row is no longer pending: the lease had ended, and a retry or the sweeper has given the upload up. Or a duplicate
    // upload was stored first.
    await this.claims.abandon(image);
    await this.claims.leaveTombstone(image);
    throw new AppError('OVERLOADED');
  }
}
