import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

/** The stages of an upload. `waited` is the wait for memory and for its turn to be decoded. */
export type UploadStage = 'received' | 'waited' | 'cleaned' | 'decoded' | 'put' | 'committed';

/** The connections of a pool: as of pg. */
export type ConnectionPool = {
  readonly totalCount: number;
  readonly idleCount: number;
  readonly waitingCount: number;
};

/** Rows that wait for the sweeper, and what else their statement tells. Times are in seconds. */
export type BacklogReading = {
  readonly kinds: readonly {
    readonly kind: 'pending' | 'abandoned' | 'tombstone';
    readonly count: number;
    readonly oldestSeconds: number;
  }[];
  /** How long the oldest tombstone that is due has been due. */
  readonly overdueSeconds: number;
  /** How much this machine's clock is ahead of the database's. */
  readonly clockAheadSeconds: number;
};

type Request = {
  readonly method: string;
  readonly route: string;
  readonly status: number;
  readonly errorCode: string | undefined;
  readonly seconds: number;
};

/** Upper bounds of all histograms of times, in seconds. */
const SECONDS_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** Methods of the routes, and of a browser's preflight. Clients can send many more. */
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'OPTIONS']);

/** Upper bounds of the number of requests in one statement. */
const ITEMS_BUCKETS = [1, 2, 4, 8, 16, 32, 64, 128, 200];

/**
 * The metrics of this process, and their text for Prometheus. `docs/metrics.md` describes each. No label has a person's or a
 * picture's id, and all labels have few values.
 */
export class PrometheusMetrics {
  private readonly registry = new Registry();
  private readonly registers = [this.registry];
  private readonly pools = new Map<string, { readonly pool: ConnectionPool; readonly max: number }>();

  private readonly requests = this.histogram('http_request_duration_seconds', {
    help: 'Time from the head of a request to the end of its response.',
    labelNames: ['method', 'route', 'status', 'error_code'],
  });
  private readonly stageSeconds = this.histogram('upload_stage_duration_seconds', {
    help: 'Time of one upload in a stage.',
    labelNames: ['stage'],
  });
  private readonly stageBytes = this.counter('upload_stage_bytes_total', {
    help: 'Bytes of the pictures that have passed a stage.',
    labelNames: ['stage'],
  });
  private readonly decodeWait = this.histogram('decode_wait_seconds', {
    help: 'Time that a picture has waited for its turn to be decoded.',
  });
  private readonly statementItems = this.histogram('shared_statement_items', {
    help: 'Number of requests in one shared statement.',
    buckets: ITEMS_BUCKETS,
  });
  private readonly statementWait = this.histogram('shared_statement_wait_seconds', {
    help: 'Time that the first request of a shared statement has waited for the statement to begin.',
  });
  private readonly storageSeconds = this.histogram('storage_request_duration_seconds', {
    help: 'Time of one try of a request to the storage, until its response begins.',
    labelNames: ['operation', 'status'],
  });
  private readonly storageFailures = this.counter('storage_failures_total', {
    help: 'Requests to the storage that have failed after all tries.',
    labelNames: ['failure'],
  });
  private readonly opens = this.counter('opens_without_token_total', {
    help: 'Stable addresses opened without a token.',
    labelNames: ['phase', 'result'],
  });
  private readonly sweeps = this.counter('sweeps_total', {
    help: 'Sweeps of this process.',
    labelNames: ['result'],
  });
  private readonly lastSweepAt = this.gauge('last_sweep_timestamp_seconds', {
    help: 'When the last successful sweep of this process has ended; the start of the schedule before the first one.',
  });
  private readonly lastSweepSeconds = this.gauge('last_sweep_duration_seconds', {
    help: 'Time of the last successful sweep.',
  });
  private readonly lastSweepRemoved = this.gauge('last_sweep_removed', {
    help: 'What the last successful sweep has removed.',
    labelNames: ['kind'],
  });
  private readonly lastSweepFailures = this.gauge('last_sweep_failures', {
    help: 'Objects that the last successful sweep could not delete.',
  });
  private readonly lastReconcileAt = this.gauge('last_reconcile_timestamp_seconds', {
    help: 'When this process has last compared the storage with the rows; 0 for never.',
  });
  private readonly lastReconcileMissing = this.gauge('last_reconcile_missing_objects', {
    help: 'Objects of stored pictures that the last comparison did not find.',
  });
  private readonly lastReconcileUnknown = this.gauge('last_reconcile_unknown_objects', {
    help: 'Objects without a row that the last comparison has found.',
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry });
    this.describePools();
  }

  /** The media type of {@link text}. */
  get contentType(): string {
    return this.registry.contentType;
  }

  /** All metrics, in the text format of Prometheus. */
  text(): Promise<string> {
    return this.registry.metrics();
  }

  requestEnded({ method, route, status, errorCode = 'none', seconds }: Request): void {
    const bounded = METHODS.has(method) ? method : 'other';
    this.requests.observe({ method: bounded, route, status, error_code: errorCode }, seconds);
  }

  uploadPassed(stage: UploadStage, ms: number, bytes: number): void {
    this.stageSeconds.observe({ stage }, ms / 1000);
    this.stageBytes.inc({ stage }, bytes);
  }

  decodeWaited(ms: number): void {
    this.decodeWait.observe(ms / 1000);
  }

  /** @param waitedMs the wait of the request that came first */
  statementShared(items: number, waitedMs: number): void {
    this.statementItems.observe(items);
    this.statementWait.observe(waitedMs / 1000);
  }

  /** @param status the HTTP status, or why there was no response */
  storageAnswered(operation: string, status: string, ms: number): void {
    this.storageSeconds.observe({ operation, status }, ms / 1000);
  }

  storageFailed(failure: string): void {
    this.storageFailures.inc({ failure });
  }

  openedWithoutToken(phase: number, result: 'opened' | 'redirected' | 'refused'): void {
    this.opens.inc({ phase: String(phase), result });
  }

  sweepingBegins(): void {
    this.lastSweepAt.setToCurrentTime();
  }

  swept(
    { uploads, objects, failures }: { uploads: number; objects: number; failures: number },
    ms: number,
  ): void {
    this.sweeps.inc({ result: 'done' });
    this.lastSweepAt.setToCurrentTime();
    this.lastSweepSeconds.set(ms / 1000);
    this.lastSweepRemoved.set({ kind: 'upload' }, uploads);
    this.lastSweepRemoved.set({ kind: 'object' }, objects);
    this.lastSweepFailures.set(failures);
  }

  sweepFailed(): void {
    this.sweeps.inc({ result: 'failed' });
  }

  reconciled({ missing, unknown }: { missing: number; unknown: number }): void {
    this.lastReconcileAt.setToCurrentTime();
    this.lastReconcileMissing.set(missing);
    this.lastReconcileUnknown.set(unknown);
  }

  /** @param max the size of the pool */
  watchConnections(name: 'requests' | 'upkeep', pool: ConnectionPool, max: number): void {
    this.pools.set(name, { pool, max });
  }

  watchDecodeQueue(
    slots: number,
    queue: { readonly waitingCount: number; readonly runningCount: number },
  ): void {
    this.read('decode_slots', 'Decoding processes.', () => slots);
    this.read('decode_running', 'Pictures that are being decoded.', () => queue.runningCount);
    this.read('decode_waiting', 'Pictures that wait for their turn to be decoded.', () => queue.waitingCount);
  }

  watchRedis(isAway: () => boolean): void {
    this.read('redis_away', 'Whether REDIS_URL is set and this process counts rate limits by itself.', () =>
      Number(isAway()),
    );
  }

  watchUploadMemory(
    limitBytes: number,
    budget: { readonly inUse: number; readonly waitingCount: number },
  ): void {
    this.read('upload_memory_limit_bytes', 'Memory for all uploads of the process.', () => limitBytes);
    this.read('upload_memory_bytes', 'Memory that uploads hold.', () => budget.inUse);
    this.read('upload_memory_waiting', 'Uploads that wait for memory.', () => budget.waitingCount);
  }

  /** @param read never rejects; resolves to `undefined` where the database does not answer */
  watchBacklog(read: () => Promise<BacklogReading | undefined>): void {
    const { registers } = this;
    const kind = ['kind'] as const;
    const ofKinds = (
      name: string,
      help: string,
      value: (ofKind: BacklogReading['kinds'][number]) => number,
    ): void => {
      new Gauge({
        name: `chat_images_${name}`,
        help,
        labelNames: kind,
        registers,
        async collect() {
          this.reset();
          for (const ofKind of (await read())?.kinds ?? []) this.set({ kind: ofKind.kind }, value(ofKind));
        },
      });
    };
    ofKinds(
      'backlog_rows',
      'Rows that wait for their upload or for the sweeper, up to 10,000.',
      ({ count }) => count,
    );
    ofKinds('backlog_oldest_age_seconds', 'Age of the oldest of these rows.', (one) => one.oldestSeconds);
    new Gauge({
      name: 'chat_images_tombstones_overdue_seconds',
      help: 'How long the oldest object that is due has waited for its deletion.',
      labelNames: ['due'],
      registers,
      async collect() {
        this.reset();
        const reading = await read();
        if (reading) this.set({ due: 'next_attempt' }, reading.overdueSeconds);
      },
    });
    new Gauge({
      name: 'chat_images_clock_ahead_seconds',
      help: "How much this machine's clock is ahead of another one.",
      labelNames: ['of'],
      registers,
      async collect() {
        this.reset();
        const reading = await read();
        if (reading) this.set({ of: 'database' }, reading.clockAheadSeconds);
      },
    });
    new Gauge({
      name: 'chat_images_database_up',
      help: 'Whether the database has answered the statement of the backlog in time.',
      registers,
      async collect() {
        this.set((await read()) ? 1 : 0);
      },
    });
  }

  private describePools(): void {
    const { pools, registers } = this;
    const ofPools = (
      metric: string,
      help: string,
      value: (pool: ConnectionPool, max: number) => number,
    ): void => {
      new Gauge({
        name: `chat_images_${metric}`,
        help,
        labelNames: ['pool'],
        registers,
        collect() {
          for (const [name, { pool, max }] of pools) this.set({ pool: name }, value(pool, max));
        },
      });
    };
    ofPools('database_connections_max', 'Size of the pool.', (_, max) => max);
    ofPools(
      'database_connections_in_use',
      'Connections at work.',
      (pool) => pool.totalCount - pool.idleCount,
    );
    ofPools('database_connections_idle', 'Open connections that wait for work.', (pool) => pool.idleCount);
    ofPools(
      'database_connections_waiting',
      'Statements that wait for a connection.',
      (pool) => pool.waitingCount,
    );
  }

  private read(name: string, help: string, value: () => number): void {
    new Gauge({
      name: `chat_images_${name}`,
      help,
      registers: this.registers,
      collect() {
        this.set(value());
      },
    });
  }

  private histogram<Label extends string>(
    name: string,
    options: { help: string; labelNames?: Label[]; buckets?: number[] },
  ): Histogram<Label> {
    const { registers } = this;
    return new Histogram({
      name: `chat_images_${name}`,
      buckets: SECONDS_BUCKETS,
      registers,
      ...options,
    });
  }

  private counter<Label extends string>(
    name: string,
    options: { help: string; labelNames: Label[] },
  ): Counter<Label> {
    return new Counter({ name: `chat_images_${name}`, registers: this.registers, ...options });
  }

  private gauge<Label extends string>(
    name: string,
    options: { help: string; labelNames?: Label[] },
  ): Gauge<Label> {
    return new Gauge({ name: `chat_images_${name}`, registers: this.registers, ...options });
  }
}
