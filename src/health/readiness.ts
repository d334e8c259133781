import { Inject, Injectable } from '@nestjs/common';
import { HealthIndicatorService } from '@nestjs/terminus';
import type { Logger } from 'pino';
import { StorageProvider } from '../storage/storage-provider.js';
import { RequestDatabase } from '../database/request-database.js';
import { AppError, type ErrorCode } from '../errors/app-error.js';
import { describeFailure } from '../http/describe-failure.js';
import { LOGGER } from '../observability/logger.js';

/** How long each backend has for its answer, in milliseconds. */
const CHECK_TIMEOUT_MS = 2000;

/** How long an answer is good for all who ask. */
const FRESH_MS = 1000;

/** How often the log is reminded of a backend that stays away. */
const REMINDER_MS = 60_000;

/** Whether the database and the storage answer. Anybody may ask as often as they like: the backends are not asked more. */
@Injectable()
export class Readiness {
  private readonly backends: readonly Backend[];
  private askedAt = -Infinity;
  private asking = false;
  private answer: Promise<ErrorCode | undefined> = Promise.resolve(undefined);

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
   * Resolves when both answer. Whoever asks within a second of the last question, or before its answer, shares that.
   *
   * @throws AppError DATABASE_UNAVAILABLE or STORAGE_UNAVAILABLE; the cause is logged when it is new, then once a minute
   */
  async check(): Promise<void> {
    if (!this.asking && performance.now() - this.askedAt >= FRESH_MS) {
      this.asking = true;
      this.askedAt = performance.now();
      this.answer = this.ask().finally(() => (this.asking = false));
    }
    const code = await this.answer;
    if (code !== undefined) throw new AppError(code, { logged: true });
  }

  private async ask(): Promise<ErrorCode | undefined> {
    const answers = await Promise.all(
      this.backends.map(async (backend) => [backend, await backend.isUp()] as const),
    );
    return answers.find(([, up]) => !up)?.[0].code;
  }
}

/** One backend, and what the log knows of it. */
class Backend {
  /** Also after nobody waits for it any more: a backend that hangs is not asked again before it has answered. */
  private pinging: Promise<void> | undefined;
  /** Why it has been away since it was last there, and when each was logged. */
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
    // Without the places in the code, which tell nothing of a backend.
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
