import { Inject, Injectable } from '@nestjs/common';
import { setTimeout } from 'node:timers/promises';
import type { Pool } from 'pg';
import { DataSource } from 'typeorm';
import type { PostgresDriver } from 'typeorm/driver/postgres/PostgresDriver.js';
import { preparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase, UPKEEP_CONNECTIONS } from '../database/request-database.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import type { BacklogReading } from '../observability/prometheus-metrics.js';

/** Maximum number of rows of each kind that are counted. */
const MAX_ROWS = 10_000;

/** Cache time of a reading: several Prometheus servers may scrape. */
const CACHE_MS = 5000;

/** Maximum wait of a scrape for the database. */
const TIMEOUT_MS = 2000;

/** Counts by the indexes of unfinished uploads and of tombstones that are due. */
const READ_BACKLOG = preparedStatement(
  'read-backlog',
  `WITH unfinished AS (
     SELECT state, created_at FROM chat_images WHERE state <> 'stored' ORDER BY created_at LIMIT ${MAX_ROWS}
   ), tombstones AS (
     SELECT created_at, next_attempt_at FROM chat_image_tombstones ORDER BY next_attempt_at LIMIT ${MAX_ROWS}
   ), backlog AS (
     SELECT kind, count(created_at)::int AS count, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest
     FROM (VALUES ('pending'), ('abandoned')) kinds (kind) LEFT JOIN unfinished ON state = kind GROUP BY kind
     UNION ALL
     SELECT 'tombstone', count(*)::int, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM tombstones
   )
   SELECT kind, count, greatest(oldest, 0) AS "oldestSeconds",
     greatest((SELECT extract(epoch FROM now() - min(next_attempt_at)) FROM tombstones), 0)::float8 AS "overdueSeconds",
     (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now
   FROM backlog`,
);

type BacklogRow = BacklogReading['kinds'][number] & {
  readonly overdueSeconds: number;
  /** Milliseconds since 1970. */
  readonly now: number;
};

/** The rows that wait for the sweeper, for the metrics: read when they are asked for. */
@Injectable()
export class Backlog {
  private readAt = -Infinity;
  private running: Promise<BacklogReading | undefined> | undefined;
  private latest: Promise<BacklogReading | undefined> = Promise.resolve(undefined);

  constructor(
    private readonly database: RequestDatabase,
    dataSource: DataSource,
    @Inject(METRICS) metrics: Metrics,
  ) {
    if (!metrics) return;
    metrics.watchBacklog(() => this.read());
    const driver = dataSource.driver as PostgresDriver;
    metrics.watchConnections('upkeep', driver.master as Pool, UPKEEP_CONNECTIONS);
  }

  /** Never rejects. @returns `undefined` when the database has failed, or has not answered in time */
  private read(): Promise<BacklogReading | undefined> {
    if (performance.now() - this.readAt < CACHE_MS) return this.latest;
    this.readAt = performance.now();
    // A database that hangs gets no second statement.
    this.running ??= this.ask().finally(() => (this.running = undefined));
    this.latest = Promise.race([this.running, setTimeout(TIMEOUT_MS, undefined, { ref: false })]);
    return this.latest;
  }

  private async ask(): Promise<BacklogReading | undefined> {
    const askedAt = Date.now();
    try {
      const rows = await this.database.run<BacklogRow>(READ_BACKLOG, []);
      const [{ overdueSeconds, now } = { overdueSeconds: 0, now: askedAt }] = rows;
      const clockAheadSeconds = aheadMs(now, askedAt, Date.now()) / 1000;
      return { kinds: rows, overdueSeconds, clockAheadSeconds };
    } catch {
      // The metric says so. Readiness and the requests log the reason.
      return undefined;
    }
  }
}

/** The least that this machine's clock is ahead: the time of the statement counts as no difference. */
function aheadMs(theirs: number, askedAt: number, answeredAt: number): number {
  return Math.max(askedAt - theirs, 0) + Math.min(answeredAt - theirs, 0);
}
