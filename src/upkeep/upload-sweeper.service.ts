import { Inject, Injectable } from '@nestjs/common';
import pLimit from 'p-limit';
import type { Logger } from 'pino';
import { DataSource } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { LOGGER } from '../observability/logger.js';
import { StorageUnavailableError } from '../storage/storage-errors.js';
import { StorageProvider } from '../storage/storage-provider.js';
import { IDEMPOTENCY_KEY_SECONDS } from '../uploads/upload-claims.js';

/** How many unfinished uploads, and how many objects, one sweep removes, so that it ends soon. */
const BATCH = 500;

/** How many tombstones are claimed at once, and how many of their objects deleted at the same moment. */
const CLAIM = 50;
const CONCURRENCY = 8;

/** The pause after a first failure, which doubles with each further one, and the longest. */
const FIRST_PAUSE_SECONDS = 60;
const LONGEST_PAUSE_SECONDS = 6 * 3600;

/** For how long a request for an old picture that was sent on to its public place is remembered: it is counted, no more. */
const SENT_ON_DAYS = 31;

/** A tombstone that this sweep has claimed. */
type Tombstone = {
  readonly objectKey: string;
  /** Whether a row names the object again: then it stays, and so does the tombstone, for when that row goes as well. */
  readonly isNamed: boolean;
};

/** `kept` for a later sweep; `refused` by a storage that answers, and may well delete the next one. */
type Outcome = 'deleted' | 'kept' | 'refused' | 'failed';

/** The result of a sweep. */
export type Sweep = {
  /** Rows of uploads that never ended. */
  readonly uploads: number;
  /** Objects whose rows are gone. */
  readonly objects: number;
  /** Objects that the storage did not delete; they are tried again later. */
  readonly failures: number;
};

/**
 * Removes what the database says is this service's and no longer wanted: rows of uploads that never ended, and the objects
 * whose keys rows have left as tombstones. Looks at no other object. Any number of instances may sweep at the same time:
 * each claims rows that no other has.
 */
@Injectable()
export class UploadSweeper {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(LOGGER) private readonly logger: Logger,
  ) {}

  /** @param signal ends the sweep before its next piece; what is left is for a later one */
  async sweep(signal?: AbortSignal): Promise<Sweep> {
    await this.forgetExpired();
    const uploads = await this.removeUnfinished();
    const { objects, failures } = await this.removeObjects(signal);
    return { uploads, objects, failures };
  }

  private async forgetExpired(): Promise<void> {
    await this.dataSource.query(
      'DELETE FROM chat_image_upload_keys WHERE created_at < now() - make_interval(secs => $1)',
      [IDEMPOTENCY_KEY_SECONDS],
    );
    await this.dataSource.query(
      'DELETE FROM chat_image_link_opens WHERE chat_image_id IS NULL AND opened_at < now() - make_interval(days => $1)',
      [SENT_ON_DAYS],
    );
  }

  /**
   * Rows leave tombstones. An upload whose row is removed can no longer become stored; one whose process still renews its
   * lease is left alone.
   */
  private async removeUnfinished(): Promise<number> {
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

  private async removeObjects(signal: AbortSignal | undefined): Promise<Pick<Sweep, 'objects' | 'failures'>> {
    const limit = pLimit(CONCURRENCY);
    const counts: Record<Outcome, number> = { deleted: 0, kept: 0, refused: 0, failed: 0 };
    for (let looked = 0; looked < BATCH && !signal?.aborted;) {
      const claimed = await this.claimTombstones();
      const outcomes = await limit.map(claimed, (tombstone) =>
        signal?.aborted ? 'kept' : this.removeObject(tombstone),
      );
      for (const outcome of outcomes) counts[outcome] += 1;
      looked += claimed.length;
      // Nothing is left, or the storage is down: then it is not asked for all the others as well.
      if (outcomes.every((outcome) => outcome === 'failed')) break;
    }
    return { objects: counts.deleted, failures: counts.refused + counts.failed };
  }

  /** Also says when each is tried again, should this try not come to its end. */
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
       ) AS "isNamed"`,
      [FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, CLAIM],
    );
    return claimed;
  }

  /** Deletes an object, unless a row names it again. The tombstone stays while a write that was given up may still arrive. */
  private async removeObject({ objectKey, isNamed }: Tombstone): Promise<Outcome> {
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
