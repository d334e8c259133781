import {
  type BeforeApplicationShutdown,
  Inject,
  Injectable,
  Module,
  type OnApplicationBootstrap,
} from '@nestjs/common';
import { setTimeout } from 'node:timers/promises';
import type { Logger } from 'pino';
import { DataSource } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { DatabaseModule } from '../database/database.module.js';
import { LOGGER } from '../observability/logger.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { Backlog } from './backlog.js';
import { StorageReconciler } from './storage-reconciler.js';
import { UpkeepModule } from './upkeep.module.js';
import { type Sweep, UploadSweeper } from './upload-sweeper.service.js';

/** Interval of comparing the whole bucket with the rows, and the retry delay after a failure. */
const RECONCILE_INTERVAL_SECONDS = 24 * 3600;
const RECONCILE_RETRY_SECONDS = 3600;

/** How long the shutdown waits for the running task. A task may be interrupted at any time. */
const SHUTDOWN_WAIT_MS = 1000;

/** Runs the sweeper regularly in every instance. Once a day, one instance compares the storage with the rows. */
@Injectable()
export class UpkeepSchedule implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private readonly stopping = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly dataSource: DataSource,
    private readonly sweeper: UploadSweeper,
    private readonly reconciler: StorageReconciler,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(LOGGER) private readonly logger: Logger,
    @Inject(METRICS) private readonly metrics: Metrics,
  ) {}

  onApplicationBootstrap(): void {
    const { sweepIntervalSeconds } = this.settings.uploads;
    if (sweepIntervalSeconds === 0) return;
    this.metrics?.sweepingBegins();
    this.timer = setInterval(() => {
      this.running = this.running.then(() => (this.stopping.signal.aborted ? undefined : this.run()));
    }, sweepIntervalSeconds * 1000);
    this.timer.unref();
  }

  /** Starts no further work. */
  stop(): void {
    clearInterval(this.timer);
    this.stopping.abort();
  }

  async beforeApplicationShutdown(): Promise<void> {
    this.stop();
    await Promise.race([this.running, setTimeout(SHUTDOWN_WAIT_MS, undefined, { ref: false })]);
  }

  /** Runs the tasks that are due. Never rejects: a failed task is retried later. */
  async run(): Promise<void> {
    const { signal } = this.stopping;
    try {
      const swept = await this.sweep(signal);
      if (swept.uploads + swept.objects + swept.failures > 0) this.logger.info(swept, 'sweeper: done');
      if (!signal.aborted && (await this.claimDueTask('reconcile', RECONCILE_INTERVAL_SECONDS)))
        await this.reconcile(signal);
    } catch (error) {
      this.logger.warn(
        { error: error instanceof Error ? error.name : 'unknown' },
        'upkeep: tries again later',
      );
    }
  }

  private async sweep(signal: AbortSignal): Promise<Sweep> {
    const started = performance.now();
    try {
      const swept = await this.sweeper.sweep(signal);
      this.metrics?.swept(swept, performance.now() - started);
      return swept;
    } catch (error) {
      this.metrics?.sweepFailed();
      throw error;
    }
  }

  /** Only reports. An object without a row may belong to another application. */
  private async reconcile(signal: AbortSignal): Promise<void> {
    try {
      const { objects, images, thumbnails, missing, unknown } = await this.reconciler.compare({ signal });
      const counts = { objects, images, thumbnails, missing: missing.count, unknown: unknown.count };
      this.metrics?.reconciled(counts);
      if (missing.count > 0) this.logger.error(counts, 'reconcile: images have lost their objects');
      else this.logger.info(counts, 'reconcile: the storage is compared with the rows');
    } catch (error) {
      await this.dataSource.query(
        'UPDATE chat_image_upkeep_tasks SET due_at = now() + make_interval(secs => $2) WHERE name = $1',
        ['reconcile', RECONCILE_RETRY_SECONDS],
      );
      throw error;
    }
  }

  /** Whether a task is due: true in one instance only. The due time is in the database, so restarts do not delay a task. */
  private async claimDueTask(name: string, seconds: number): Promise<boolean> {
    const rows = await this.dataSource.query<unknown[]>(
      `INSERT INTO chat_image_upkeep_tasks (name, due_at) VALUES ($1, now() + make_interval(secs => $2))
       ON CONFLICT (name) DO UPDATE SET due_at = excluded.due_at WHERE chat_image_upkeep_tasks.due_at <= now()
       RETURNING name`,
      [name, seconds],
    );
    return rows.length > 0;
  }
}

/** The schedule, for the server only: commands that start the application run no scheduled upkeep. */
@Module({ imports: [DatabaseModule, UpkeepModule], providers: [Backlog, UpkeepSchedule] })
export class UpkeepScheduleModule {}
