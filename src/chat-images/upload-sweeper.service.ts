import { Inject, Injectable, type OnApplicationBootstrap, type OnApplicationShutdown } from '@nestjs/common';
import type { Logger } from 'pino';
import { DataSource, In, LessThan, Not } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { LOGGER } from '../logging/logger.js';
import { ChatImageUploadKey } from './chat-image-upload-key.entity.js';
import { IDEMPOTENCY_KEY_SECONDS } from './upload-claims.js';
import { ChatImage } from './chat-image.entity.js';
import { StorageReconciler } from './storage-reconciler.js';
import { StorageProvider } from './storage/storage-provider.js';

/** Any number, the same in every instance: one sweeps at a time. */
const SWEEP_LOCK = 7_241_090_146;

/** How many unfinished uploads one sweep removes, so that it ends soon. */
const BATCH = 500;

/** How often the whole bucket is compared with the rows. */
const RECONCILE_INTERVAL_MS = 24 * 3600 * 1000;

/**
 * Removes what crashes have left behind: uploads that never ended, their objects, objects without a row. Every instance
 * looks regularly; the database lets one do it at a time.
 */
@Injectable()
export class UploadSweeper implements OnApplicationBootstrap, OnApplicationShutdown {
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<unknown> = Promise.resolve();
  private reconciledAt = Date.now();

  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    private readonly reconciler: StorageReconciler,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(LOGGER) private readonly logger: Logger,
  ) {}

  onApplicationBootstrap(): void {
    const { sweepIntervalSeconds } = this.settings.uploads;
    if (sweepIntervalSeconds === 0) return;
    this.timer = setInterval(() => {
      this.running = this.running.then(() => this.sweepRegularly());
    }, sweepIntervalSeconds * 1000);
    this.timer.unref();
  }

  async onApplicationShutdown(): Promise<void> {
    clearInterval(this.timer);
    await this.running;
  }

  /**
   * Removes uploads that have been pending for longer than the grace time, with their objects, and forgets expired
   * `Idempotency-Key`s.
   *
   * @returns how many uploads were removed, or `undefined` when another instance is at it
   */
  async sweep(): Promise<number | undefined> {
    return this.alone(async () => {
      await this.dataSource.manager.delete(ChatImageUploadKey, {
        createdAt: LessThan(new Date(Date.now() - IDEMPOTENCY_KEY_SECONDS * 1000)),
      });
      return this.removeUnfinished();
    });
  }

  private async removeUnfinished(): Promise<number> {
    const abandonedBefore = new Date(Date.now() - this.settings.uploads.graceSeconds * 1000);
    const unfinished = await this.dataSource.manager.find(ChatImage, {
      where: { state: Not('stored'), createdAt: LessThan(abandonedBefore) },
      order: { createdAt: 'ASC' },
      take: BATCH,
    });
    // From this statement on a late upload can no longer become stored; it removes its own object then.
    await this.dataSource.manager.update(
      ChatImage,
      { id: In(unfinished.map(({ id }) => id)), state: 'pending' },
      { state: 'abandoned' },
    );
    let removed = 0;
    for (const { id } of unfinished) {
      const abandoned = await this.dataSource.manager.findOneBy(ChatImage, { id, state: 'abandoned' });
      if (!abandoned) continue;
      await this.storage.delete(abandoned.filePath);
      await this.dataSource.manager.delete(ChatImage, { id, state: 'abandoned' });
      removed += 1;
    }
    return removed;
  }

  private async sweepRegularly(): Promise<void> {
    try {
      const removed = await this.sweep();
      if (removed) this.logger.info({ removed }, 'sweeper: uploads that never ended are removed');
      if (Date.now() - this.reconciledAt < RECONCILE_INTERVAL_MS) return;
      this.reconciledAt = Date.now();
      const result = await this.alone(() => this.reconciler.reconcile({ dryRun: false }));
      if (result) this.logger.info(result, 'sweeper: the storage is compared with the rows');
    } catch (error) {
      this.logger.warn(
        { error: error instanceof Error ? error.name : 'unknown' },
        'sweeper: tries again later',
      );
    }
  }

  /** Runs work unless another instance holds the lock. The lock ends with its connection, whatever happens. */
  private async alone<T>(work: () => Promise<T>): Promise<T | undefined> {
    const holder = this.dataSource.createQueryRunner();
    try {
      const [row] = await this.dataSource.query<{ locked: boolean }[]>(
        'SELECT pg_try_advisory_lock($1) AS locked',
        [SWEEP_LOCK],
        holder,
      );
      if (!row?.locked) return undefined;
      try {
        return await work();
      } finally {
        await holder.query('SELECT pg_advisory_unlock($1)', [SWEEP_LOCK]);
      }
    } finally {
      await holder.release();
    }
  }
}
