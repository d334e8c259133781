import { Inject, Injectable } from '@nestjs/common';
import { setTimeout } from 'node:timers/promises';
import { grantedOf, ImageAccess, type RecordedAccess } from '../access/image-access.js';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { thumbnailKey } from '../chat-images/entities/chat-image-path.js';
import type { ChatImage, ThumbnailColumns } from '../chat-images/entities/chat-image.entity.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError, uploadGivenUp } from '../errors/app-error.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { BYTES, inSpan } from '../observability/spans.js';
import { ImagePreparer, type PreparedImage } from '../pictures/image-preparer.js';
import { PictureError } from '../pictures/picture-error.js';
import { lengthOf } from '../storage/byte-pieces.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { UploadClaims } from './upload-claims.js';
import type { UploadForm } from './upload-form.js';
import { UploadLeases } from './upload-leases.js';
import { MAX_FILE_BYTES } from './upload-limits.js';

/** The longest time that a duplicate waits for the upload of its picture. */
const DUPLICATE_WAIT_MS = 25_000;

/** The pauses of a duplicate whose picture another process uploads: each is twice as long as the one before. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1000;

/** An image that was uploaded, and the leave to hand out its URL. */
export type UploadedImage = { readonly image: ChatImage; readonly access: RecordedAccess };

/**
 * The upload path. The guard has decided before that the user may upload to the conversation.
 *
 * The row is committed as pending before picture and thumbnail are written, and as stored after it. So at every moment an object
 * has a row, whatever fails in between, and the sweeper finds by the row what it must delete.
 */
@Injectable()
export class ChatImageUploadsService {
  constructor(
    private readonly storage: StorageProvider,
    private readonly claims: UploadClaims,
    private readonly leases: UploadLeases,
    private readonly preparer: ImagePreparer,
    private readonly access: ImageAccess,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(METRICS) private readonly metrics: Metrics,
  ) {}

  /**
   * Stores an uploaded picture. A duplicate is the image that the first upload made: the same picture within the settings'
   * time, or with the same `Idempotency-Key`.
   *
   * @returns the image; the audit row of its URL is committed
   * @throws AppError INVALID_IMAGE with a sentence that names the reason, FILE_TOO_LARGE for a picture over 10 MiB, IDEMPOTENCY_KEY_REUSED, APPOINTMENT_NOT_FOUND when the conversation was just deleted,
   *   OVERLOADED when another upload of the same picture does not end
   */
  async upload(user: AuthenticatedUser, form: UploadForm): Promise<UploadedImage> {
    const sender = { userId: user.id, left: form.left };
    const options = { withThumbnail: this.settings.thumbnails };
    const prepared = await this.preparer.prepare(form.pieces, sender, options).catch((error: unknown) => {
      throw error instanceof PictureError ? toAppError(error) : error;
    });
    if (prepared.size > MAX_FILE_BYTES) throw new AppError('FILE_TOO_LARGE');
    this.countPrepared(form, prepared);
    const deadline = performance.now() + DUPLICATE_WAIT_MS;
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      const claim = await inSpan('claim', () => this.claims.claim(user, form, prepared));
      if (claim?.isNew) {
        const image = Object.assign(claim.image, thumbnailColumns(prepared));
        await this.leases.renewDuring(image.id, () => this.store(user, image, prepared));
        return { image, access: grantedOf(await this.access.record(user, { id: image.id })) };
      }
      if (claim?.image.state === 'stored') {
        const decision = await this.access.record(user, { id: claim.image.id });
        // An image that was deleted since the claim is uploaded again.
        if ('granted' in decision || decision.refusal !== 'IMAGE_NOT_FOUND')
          return { image: claim.image, access: grantedOf(decision) };
      }
      const timeLeft = deadline - performance.now();
      if (timeLeft < 0) throw new AppError('OVERLOADED');
      const end = claim && this.leases.endOf(claim.image.id);
      await waitFor(end, end ? timeLeft : pause, form.left);
    }
  }

  private async store(user: AuthenticatedUser, image: ChatImage, prepared: PreparedImage): Promise<void> {
    try {
      const putAt = performance.now();
      await inSpan('put', () => this.put(image, prepared), { [BYTES]: bytesOf(prepared) });
      const committedAt = performance.now();
      this.metrics?.uploadPassed('put', committedAt - putAt, bytesOf(prepared));
      if (await inSpan('commit', () => this.claims.commitStored(user, image))) {
        this.metrics?.uploadPassed('committed', performance.now() - committedAt, bytesOf(prepared));
        return;
      }
    } catch (error) {
      await this.claims.abandon(image);
      throw error;
    }
    // The row is no longer pending: its lease had ended, and a retry or the sweeper abandoned it. Or a duplicate was stored
    // first.
    await this.claims.abandon(image);
    await this.claims.leaveTombstone(image);
    throw new AppError('OVERLOADED');
  }

  private countPrepared(form: UploadForm, { times, size }: PreparedImage): void {
    if (!this.metrics) return;
    this.metrics.uploadPassed('waited', form.waitedMs + times.waitedMs, lengthOf(form.pieces));
    this.metrics.uploadPassed('cleaned', times.cleanMs, size);
    this.metrics.uploadPassed('decoded', times.decodeMs, size);
  }

  /** Ends when both have ended: nothing is written after the upload was abandoned. */
  private async put(image: ChatImage, prepared: PreparedImage): Promise<void> {
    const puts = [this.putPicture(image, prepared), this.putThumbnail(image, prepared)];
    for (const put of await Promise.allSettled(puts)) if (put.status === 'rejected') throw put.reason;
  }

  private putPicture({ filePath, mimeType }: ChatImage, prepared: PreparedImage): Promise<void> {
    const { pieces, sha256 } = prepared;
    return this.storage.put(filePath, pieces, { contentType: mimeType, sha256 });
  }

  private async putThumbnail({ filePath, mimeType }: ChatImage, { thumbnail }: PreparedImage): Promise<void> {
    if (!thumbnail) return;
    const key = thumbnailKey(filePath, mimeType);
    await this.storage.put(key, [thumbnail.bytes], { contentType: thumbnail.mimeType });
  }
}

/** Bytes of the picture and its thumbnail. */
function bytesOf({ size, thumbnail }: PreparedImage): number {
  return size + (thumbnail?.bytes.length ?? 0);
}

/** What the row says of the thumbnail as soon as it is stored. */
function thumbnailColumns({ thumbnail }: PreparedImage): ThumbnailColumns {
  return {
    thumbnailWidth: thumbnail?.width ?? null,
    thumbnailHeight: thumbnail?.height ?? null,
    thumbnailSize: thumbnail?.bytes.length ?? null,
    thumbHash: thumbnail?.hash ?? null,
  };
}

function toAppError(error: PictureError): AppError {
  switch (error.failure) {
    case 'invalid':
      return new AppError('INVALID_IMAGE', {
        message: error.message,
        fields: { file: [error.message] },
        cause: error.cause,
      });
    case 'overloaded':
      return new AppError('OVERLOADED', { cause: error });
    case 'sender-left':
      return uploadGivenUp();
  }
}

/**
 * Waits for an event, for a limited time.
 *
 * @throws AppError when the client has gone
 */
async function waitFor(event: Promise<void> | undefined, ms: number, left: AbortSignal): Promise<void> {
  const over = new AbortController();
  try {
    await Promise.race([
      setTimeout(ms, undefined, { signal: AbortSignal.any([left, over.signal]) }),
      ...(event ? [event] : []),
    ]);
  } catch (error) {
    throw left.aborted ? uploadGivenUp() : error;
  } finally {
    over.abort();
  }
}
