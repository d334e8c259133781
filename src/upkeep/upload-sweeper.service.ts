import { Inject, Injectable } from '@nestjs/common';
import pLimit from 'p-limit';
import type { Logger } from 'pino';
import { DataSource } from 'typeorm';
import { MAY_HAVE_THUMBNAIL, THUMBNAIL_KEY } from '../chat-images/entities/chat-image.entity.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { LOGGER } from '../observability/logger.js';
import { StorageUnavailableError } from '../storage/storage-errors.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { IDEMPOTENCY_KEY_SECONDS } from '../uploads/upload-claims.js';

/** Maximum number of unfinished uploads, and of objects, per sweep, to keep a sweep short. */
const BATCH = 500;

/** Number of tombstones claimed in one statement, and of objects deleted at the same time. */
const CLAIM = 50;
const CONCURRENCY = 8;

/** Exponential backoff after failures: first delay and maximum delay. */
const FIRST_RETRY_SECONDS = 60;
const MAX_RETRY_SECONDS = 6 * 3600;

/** How long to keep log rows of redirects to the old public address of a picture. They are only counted. */
const REDIRECT_DAYS = 31;

/** A tombstone that this sweep has claimed. */
type Tombstone = {
  readonly objectKey: string;
  /** Whether a row refers to the object again. Object and tombstone then stay until that row is deleted too. */
  readonly isNamed: boolean;
};

/** `kept`: left for a later sweep. `refused`: the storage responded with an error; other objects may still be deleted. */
type Outcome = 'deleted' | 'kept' | 'refused' | 'failed';

/** The result of a sweep. */
export type Sweep = {
  /** Number of deleted rows of unfinished uploads. */
  readonly uploads: number;
  /** Number of deleted objects. */
  readonly objects: number;
  /** Number of objects that the storage did not delete. They are retried later. */
  readonly failures: number;
};

/**
 * Deletes rows of unfinished uploads, and objects that have a tombstone. Never touches other objects. Several instances may
 * sweep at the same time: each instance claims different rows.
 */
@Injectable()
export class UploadSweeper {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(LOGGER) private readonly logger: Logger,
  ) {}

  /** @param signal stops the sweep before its next step; a later sweep does the rest */
  async sweep(signal?: AbortSignal): Promise<Sweep> {
    await this.deleteExpiredRows();
    const uploads = await this.deleteUnfinishedUploads();
    const { objects, failures } = await this.deleteObjects(signal);
    return { uploads, objects, failures };
  }

  private async deleteExpiredRows(): Promise<void> {
    await this.dataSource.query(
      'DELETE FROM chat_image_upload_keys WHERE created_at < now() - make_interval(secs => $1)',
      [IDEMPOTENCY_KEY_SECONDS],
    );
    await this.dataSource.query(
      'DELETE FROM chat_image_link_opens WHERE chat_image_id IS NULL AND opened_at < now() - make_interval(days => $1)',
      [REDIRECT_DAYS],
    );
  }

  /**
   * A trigger writes tombstones for the deleted rows. An upload without row can't become stored. Uploads whose process still
   * renews the lease are kept.
   */
  private async deleteUnfinishedUploads(): Promise<number> {
    const [, removed] = await this.dataSource.query<[unknown, number]>(
      `DELETE FROM chat_images WHERE state <> 'stored' AND id IN (
         SELECT id FROM chat_images
         WHERE state <> 'stored' AND created_at < now() - make_interval(secs => $1)
           AND (state <> 'pending' OR lease_until IS NULL OR lease_until < now())
         ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
       )`,
      [this.settings.uploads.graceSeconds, BATCH],
    );
    return removed;
  }

  private async deleteObjects(signal: AbortSignal | undefined): Promise<Pick<Sweep, 'objects' | 'failures'>> {
    const limit = pLimit(CONCURRENCY);
    const counts: Record<Outcome, number> = { deleted: 0, kept: 0, refused: 0, failed: 0 };
    for (let looked = 0; looked < BATCH && !signal?.aborted;) {
      const claimed = await this.claimTombstones();
      const outcomes = await limit.map(claimed, (tombstone) =>
        signal?.aborted ? 'kept' : this.deleteObject(tombstone),
      );
      for (const outcome of outcomes) counts[outcome] += 1;
      looked += claimed.length;
      // Stop when no tombstone is left, or when every deletion failed: the storage is down.
      if (outcomes.every((outcome) => outcome === 'failed')) break;
    }
    return { objects: counts.deleted, failures: counts.refused + counts.failed };
  }

  /** Claims tombstones by setting their next try, with backoff. If this process dies, they are retried then. */
  private async claimTombstones(): Promise<readonly Tombstone[]> {
    const [claimed] = await this.dataSource.query<[Tombstone[], number]>(
      `UPDATE chat_image_tombstones SET attempts = attempts + 1,
         next_attempt_at = now() + make_interval(secs => least($1 * 2 ^ least(attempts, 20), $2))
       WHERE object_key IN (
         SELECT object_key FROM chat_image_tombstones WHERE next_attempt_at <= now()
         ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED
       )
       RETURNING object_key AS "objectKey", EXISTS (
         SELECT FROM chat_images WHERE chat_images.file_path COLLATE "C" = chat_image_tombstones.object_key
       ) OR EXISTS (
         SELECT FROM chat_images
         WHERE ${THUMBNAIL_KEY} COLLATE "C" = chat_image_tombstones.object_key AND ${MAY_HAVE_THUMBNAIL}
       ) AS "isNamed"`,
      [FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, CLAIM],
    );
    return claimed;
  }

  /** Deletes an object, unless a row refers to it again. The tombstone stays while a timed-out PUT may still arrive. */
  private async deleteObject({ objectKey, isNamed }: Tombstone): Promise<Outcome> {
    if (isNamed) return 'kept';
    try {
      await this.storage.delete(objectKey);
    } catch (error) {
      const failure = error instanceof StorageUnavailableError ? error.failure : undefined;
      this.logger.warn(
        { objectKey, error: error instanceof Error ? error.name : 'unknown', storage: failure },
        'sweeper: an object can not be deleted, tries again later',
      );
      return failure === 'access-denied' ? 'refused' : 'failed';
    }
    const [, settled] = await this.dataSource.query<[unknown, number]>(
      'DELETE FROM chat_image_tombstones WHERE object_key = $1 AND settled_at <= now()',
      [objectKey],
    );
    if (settled === 0)
      await this.dataSource.query(
        'UPDATE chat_image_tombstones SET next_attempt_at = settled_at, attempts = 0 WHERE object_key = $1',
        [objectKey],
      );
    return 'deleted';
  }
}
