import { Inject, Injectable } from '@nestjs/common';
import { HealthIndicatorService } from '@nestjs/terminus';
import type { Logger } from 'pino';
import { StorageProvider } from '../storage/storage-provider.js';
import { RequestDatabase } from '../database/request-database.js';
import { AppError, type ErrorCode } from '../errors/app-error.js';
import { describeFailure } from '../http/describe-failure.js';
import { LOGGER } from '../observability/logger.js';

/** Timeout of each backend check. */
const CHECK_TIMEOUT_MS = 2000;

/** Cache time of a check's result. */
const CACHE_MS = 1000;

/** Interval of repeated log lines about a backend that stays down. */
const REMINDER_MS = 60_000;

/** Checks whether the database and the storage respond. Results are cached, so many requests cause few checks. */
@Injectable()
export class Readiness {
  private readonly backends: readonly Backend[];
  private checkedAt = -Infinity;
  private checking = false;
  private result: Promise<ErrorCode | undefined> = Promise.resolve(undefined);

  constructor(
    indicators: HealthIndicatorService,
    database: RequestDatabase,
    @Inject(StorageProvider) storage: StorageProvider,
    @Inject(LOGGER) logger: Logger,
  ) {
    const backend = (
      name: 'database' | 'storage',
      code: ErrorCode,
      ping: (signal: AbortSignal) => Promise<void>,
    ): Backend => new Backend(name, code, ping, indicators, logger);
    this.backends = [
      backend('database', 'DATABASE_UNAVAILABLE', () => database.ping()),
      backend('storage', 'STORAGE_UNAVAILABLE', (signal) => storage.ping(signal)),
    ];
  }

  /**
   * Resolves when both backends respond. Calls during a check, or within a second of its start, share its result.
   *
   * @throws AppError DATABASE_UNAVAILABLE or STORAGE_UNAVAILABLE; a new cause is logged at once, then once a minute
   */
  async check(): Promise<void> {
    if (!this.checking && performance.now() - this.checkedAt >= CACHE_MS) {
      this.checking = true;
      this.checkedAt = performance.now();
      this.result = this.checkBackends().finally(() => (this.checking = false));
    }
    const code = await this.result;
    if (code !== undefined) throw new AppError(code, { logged: true });
  }

  private async checkBackends(): Promise<ErrorCode | undefined> {
    const results = await Promise.all(
      this.backends.map(async (backend) => [backend, await backend.isUp()] as const),
    );
    return results.find(([, up]) => !up)?.[0].code;
  }
}

/** One backend, and its logged failures. */
class Backend {
  /** The running check. Kept after its timeout: a backend that hangs gets no second check before it responds. */
  private pinging: Promise<void> | undefined;
  /** Causes since the backend was last up, and when each cause was logged. */
  private readonly logged = new Map<string, number>();

  constructor(
    private readonly name: 'database' | 'storage',
    readonly code: ErrorCode,
    private readonly ping: (signal: AbortSignal) => Promise<void>,
    private readonly indicators: HealthIndicatorService,
    private readonly logger: Logger,
  ) {}

  async isUp(): Promise<boolean> {
    let failure: unknown;
    const { [this.name]: result } = await this.indicators
      .check(this.name)
      .attempt(async ({ signal }) => {
        this.pinging ??= this.ping(signal).finally(() => (this.pinging = undefined));
        await this.pinging.catch((error: unknown) => {
          failure = error;
          throw error;
        });
      })
      .withTimeout(CHECK_TIMEOUT_MS);
    const up = result.status === 'up';
    if (up) this.logRecovery();
    else this.logFailure(failure);
    return up;
  }

  private logFailure(failure: unknown): void {
    const { causes, ...description } = describeFailure(failure);
    // Without stack positions, which say nothing about a backend.
    const names = causes.map(({ name, code }) => ({ name, code }));
    const line = failure === undefined ? { silentMs: CHECK_TIMEOUT_MS } : { ...description, causes: names };
    const cause = JSON.stringify(line);
    const now = performance.now();
    if (now - (this.logged.get(cause) ?? -Infinity) < REMINDER_MS) return;
    this.logged.set(cause, now);
    this.logger.error({ backend: this.name, ...line }, 'not ready');
  }

  private logRecovery(): void {
    if (this.logged.size === 0) return;
    this.logged.clear();
    this.logger.info({ backend: this.name }, 'ready again');
  }
}
