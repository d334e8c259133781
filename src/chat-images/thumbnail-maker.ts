import { Injectable, Logger } from '@nestjs/common';
import pLimit from 'p-limit';
import { setTimeout } from 'node:timers/promises';
import { preparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase } from '../database/request-database.js';
import { ImagePreparer, type Sender } from '../pictures/image-preparer.js';
import { PictureError } from '../pictures/picture-error.js';
import type { Thumbnail } from '../pictures/thumbnail.js';
import { type BytePieces, PieceCollector } from '../storage/byte-pieces.js';
import { ObjectNotFoundError } from '../storage/storage-errors.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { MAX_FILE_BYTES } from '../uploads/upload-limits.js';
import { thumbnailKey } from './entities/chat-image-path.js';
import {
  type ChatImage,
  MAKEABLE_THUMBNAIL,
  THUMBNAIL_KEY,
  THUMBNAIL_LEASE_SECONDS,
} from './entities/chat-image.entity.js';

/** Thumbnails that this process makes at the same time. Each has its picture in memory. */
const CONCURRENCY = 2;

/** For how long nobody tries again to make a thumbnail that could not be made. */
const FAILED_SECONDS = 24 * 3600;

/** The pauses of a process that waits for another one's thumbnail: each is twice as long as the one before. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 400;

/** A picture without a thumbnail, and the end of the lease of the process that makes it. */
type ClaimedThumbnail = Pick<ChatImage, 'id' | 'filePath' | 'mimeType'> & { readonly leaseUntil: Date };

/**
 * Claims the thumbnail of a picture for this process. The result has no row when the picture has one, when another process
 * makes it, or when it could not be made lately. An object that waits for its deletion would be deleted with its key.
 */
const CLAIM = preparedStatement(
  'claim-thumbnail',
  `UPDATE chat_images image SET thumbnail_lease_until = now() + interval '${THUMBNAIL_LEASE_SECONDS} seconds'
   WHERE id = $1::bigint AND state = 'stored' AND thumbnail_size IS NULL AND ${MAKEABLE_THUMBNAIL('image')}
     AND (thumbnail_lease_until IS NULL OR thumbnail_lease_until <= now())
     AND NOT EXISTS (SELECT FROM chat_image_tombstones WHERE object_key = ${THUMBNAIL_KEY})
   RETURNING id, file_path AS "filePath", mime_type AS "mimeType", thumbnail_lease_until AS "leaseUntil"`,
);

/** Whether another process is making the thumbnail. */
const IS_BEING_MADE = preparedStatement(
  'thumbnail-is-being-made',
  `SELECT id FROM chat_images image
   WHERE id = $1::bigint AND state = 'stored' AND thumbnail_size IS NULL AND ${MAKEABLE_THUMBNAIL('image')}
     AND thumbnail_lease_until > now()`,
);

/** `updated_at` tells the reconciler, and the tombstone of the row, when the object was written. */
const COMMIT = preparedStatement(
  'commit-thumbnail',
  `UPDATE chat_images SET thumbnail_width = $3::int, thumbnail_height = $4::int, thumbnail_size = $5::int, thumb_hash = $6,
     thumbnail_lease_until = NULL, updated_at = now()
   WHERE id = $1::bigint AND thumbnail_lease_until = $2::timestamptz AND state = 'stored'
   RETURNING id`,
);

/** Ends a lease, now or later. It stays in the row: an earlier process may have written an object. */
const END_LEASE = preparedStatement(
  'end-thumbnail-lease',
  `UPDATE chat_images SET thumbnail_lease_until = now() + make_interval(secs => $3::int)
   WHERE id = $1::bigint AND thumbnail_lease_until = $2::timestamptz AND thumbnail_size IS NULL`,
);

/** For an object that was written after its row was deleted, or was given another path. */
const LEAVE_TOMBSTONE = preparedStatement(
  'leave-thumbnail-tombstone',
  `INSERT INTO chat_image_tombstones (object_key, settled_at)
   SELECT $2::text, now() WHERE NOT EXISTS (
     SELECT FROM chat_images WHERE id = $1::bigint AND ${THUMBNAIL_KEY} = $2::text
   )
   ON CONFLICT (object_key) DO NOTHING`,
);

/**
 * Makes missing thumbnails when they are asked for: of imported pictures, and of the time before thumbnails. A lease in the
 * row makes sure that one process makes it. When that process ends, the lease passes, and the next request makes it.
 */
@Injectable()
export class ThumbnailMaker {
  private readonly logger = new Logger(ThumbnailMaker.name);
  private readonly limit = pLimit(CONCURRENCY);
  /** By image. Requests for the same image share the work. */
  private readonly making = new Map<number, Promise<void>>();

  constructor(
    private readonly database: RequestDatabase,
    private readonly storage: StorageProvider,
    private readonly preparer: ImagePreparer,
  ) {}

  /**
   * Never rejects: a thumbnail that can't be had in time does not stand in the way of the picture.
   *
   * @param userId who asks; users take turns at the decoding processes
   * @param deadline when the caller waits no longer, by `performance.now()`. Work that has not begun is dropped then.
   * @returns resolves when the thumbnail is made, can't be made, or the deadline has passed
   */
  async make(imageId: number, userId: number, deadline: number): Promise<void> {
    let making = this.making.get(imageId);
    if (!making) {
      making = this.limit(() => this.makeOrWait(imageId, userId, deadline))
        .catch((error: unknown) => this.warn(imageId, error))
        .finally(() => this.making.delete(imageId));
      this.making.set(imageId, making);
    }
    const over = new AbortController();
    const timeout = setTimeout(Math.max(0, deadline - performance.now()), undefined, { signal: over.signal });
    await Promise.race([making, timeout.catch(() => undefined)]);
    over.abort();
  }

  private async makeOrWait(imageId: number, userId: number, deadline: number): Promise<void> {
    if (performance.now() >= deadline) return;
    const [claimed] = await this.database.run<ClaimedThumbnail>(CLAIM, [imageId]);
    if (claimed) {
      // Nobody waits for a decoding process after the deadline.
      const left = AbortSignal.timeout(Math.max(0, Math.ceil(deadline - performance.now())));
      return this.makeClaimed(claimed, { userId, left });
    }
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      const others = await this.database.run(IS_BEING_MADE, [imageId]);
      if (others.length === 0 || performance.now() + pause >= deadline) return;
      await setTimeout(pause);
    }
  }

  private async makeClaimed(claimed: ClaimedThumbnail, sender: Sender): Promise<void> {
    const { id, filePath, mimeType, leaseUntil } = claimed;
    let thumbnail: Thumbnail | undefined;
    try {
      thumbnail = await this.thumbnailOf(filePath, sender);
    } catch (error) {
      const isFinal =
        error instanceof ObjectNotFoundError ||
        (error instanceof PictureError && error.failure === 'invalid');
      await this.database.run(END_LEASE, [id, leaseUntil, isFinal ? FAILED_SECONDS : 0]);
      throw error;
    }
    if (!thumbnail) {
      await this.database.run(END_LEASE, [id, leaseUntil, FAILED_SECONDS]);
      return;
    }
    const key = thumbnailKey(filePath, mimeType);
    const { bytes, width, height, hash } = thumbnail;
    // When this fails, the object may be there all the same: the lease stays, and passes.
    await this.storage.put(key, [bytes], { contentType: thumbnail.mimeType });
    const columns = [width, height, bytes.length, hash];
    const committed = await this.database.run(COMMIT, [id, leaseUntil, ...columns]);
    if (committed.length === 0) await this.database.run(LEAVE_TOMBSTONE, [id, key]);
  }

  private async thumbnailOf(filePath: string, sender: Sender): Promise<Thumbnail | undefined> {
    const pieces = await this.read(filePath);
    const options = { keepBytes: true, withThumbnail: true };
    return (await this.preparer.prepare(pieces, sender, options)).thumbnail;
  }

  /** @throws PictureError for a picture that is too large to be uploaded */
  private async read(filePath: string): Promise<BytePieces> {
    const collector = new PieceCollector();
    let length = 0;
    for await (const chunk of await this.storage.get(filePath)) {
      length += (chunk as Buffer).length;
      if (length > MAX_FILE_BYTES) throw new PictureError('invalid', 'The picture is too large.');
      collector.add(chunk as Buffer);
    }
    return collector.finish();
  }

  private warn(imageId: number, error: unknown): void {
    const { name, message } = error instanceof Error ? error : { name: 'unknown error', message: '' };
    this.logger.warn(`no thumbnail of the image ${imageId}: ${name} ${message}`);
  }
}
