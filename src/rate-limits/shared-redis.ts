import { Inject, Injectable, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { Redis, type RedisOptions, ReplyError } from 'ioredis';
import type { Logger } from 'pino';
import { RateLimiterRedis } from 'rate-limiter-flexible';
import { type RedisSettings, SETTINGS, type Settings } from '../config/settings.js';
import { StatementBatcher } from '../database/statement-batcher.js';
import { systemCode } from '../errors/system-code.js';
import { LOGGER } from '../observability/logger.js';
import { METRICS, type Metrics } from '../observability/metrics.js';

/** The start of every key of this service. All keys expire. */
export const KEY_PREFIX = 'chat-image-store:rate-limit';

/** Time between two attempts to reach a Redis that is away. */
const RETRY_MS = 1000;

/**
 * Counts the points of requests, unless they are over the budget: a refused request costs nothing, and a cheaper request may
 * still be served. Returns for each the points with this request, and the milliseconds until the budget begins anew.
 *
 * Each key has three arguments: the points of the request, the seconds of a budget, the points of the budget.
 */
const COUNT_SCRIPT = `
local counts = {}
for index, key in ipairs(KEYS) do
  local cost, seconds, budget = ARGV[3 * index - 2], ARGV[3 * index - 1], ARGV[3 * index]
  local points = (tonumber(redis.call('get', key)) or 0) + tonumber(cost)
  local ttl = redis.call('pttl', key)
  if points <= tonumber(budget) then redis.call('incrby', key, cost) end
  if ttl < 0 then
    ttl = 1000 * tonumber(seconds)
    redis.call('pexpire', key, ttl)
  end
  counts[index] = {points, ttl}
end
return counts
`;

/** A key to count, with its arguments of the script. */
type Count = readonly [key: string, ...arguments: string[]];

/** Points, and milliseconds. */
type Counted = readonly [points: number, ttl: number];

/** `off` without REDIS_URL. `away` while the process counts by itself, since Redis does not count. */
export type RedisState = 'off' | 'up' | 'away';

/**
 * The Redis in which all instances count together. Redis is `up` from the first proof that it counts until the first failure.
 * After any failure the connection is made anew, until Redis counts again.
 */
@Injectable()
export class SharedRedis implements OnModuleInit, OnApplicationShutdown {
  private readonly client: Redis | undefined;
  private readonly batcher: StatementBatcher<Count, Counted>;
  private up = false;
  private failure: string | undefined;
  private started: () => void = () => undefined;

  constructor(
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(LOGGER) private readonly logger: Logger,
    @Inject(METRICS) metrics?: Metrics,
  ) {
    metrics?.watchRedis(() => this.state === 'away');
    this.client = settings.redis && new Redis(redisOptions(settings.redis));
    this.batcher = new StatementBatcher(
      (counts) => this.count(counts),
      () => true,
      { maxItems: 500, maxInFlight: 2, maxWaitMs: 0 },
    );
  }

  get state(): RedisState {
    if (!this.client) return 'off';
    return this.up ? 'up' : 'away';
  }

  /** Why Redis is away: the first failure since it was up, in a word or two. */
  get reason(): string | undefined {
    return this.failure;
  }

  /**
   * @param name of the budget, part of its keys
   * @returns counts in Redis, in one round trip with all that waits; nothing without REDIS_URL
   */
  limiter(name: string, points: number, seconds: number): RateLimiterRedis | undefined {
    return this.client && this.limiterOf(name, points, seconds);
  }

  /** Redis did not count. The process counts by itself until Redis does. */
  lose(failure: unknown): void {
    const wasUp = this.up;
    this.up = false;
    this.started();
    if (wasUp && this.client?.status === 'ready') this.client.disconnect(true);
    if (this.failure !== undefined) return;
    this.failure = redisFailure(failure);
    this.logger.error(
      { backend: 'redis', reason: this.failure },
      'redis is away: this process counts rate limits by itself',
    );
  }

  /** Gives Redis its time to be there before the first request. A start never fails for it. */
  async onModuleInit(): Promise<void> {
    const { client } = this;
    if (!client) return;
    // A budget that is never used up, so that each count writes.
    const probe = this.limiterOf('probe', Number.MAX_SAFE_INTEGER, 1);
    let faulty = false;
    client.on('error', (error) => {
      faulty = true;
      this.lose(error);
    });
    client.on('close', () => {
      faulty = false;
      this.lose(undefined);
    });
    client.on('ready', () => {
      void probe
        .penalty('probe')
        .then(() => faulty)
        .catch((error: unknown) => {
          this.lose(error);
          return true;
        })
        .then((failed) => {
          if (!failed) this.regain();
          else if (client.status === 'ready') client.disconnect(true);
        });
    });
    await new Promise<void>((resolve) => {
      this.started = resolve;
      setTimeout(resolve, this.settings.redis?.timeoutMs).unref();
      // The events above say how it ends.
      client.connect().catch(() => undefined);
    });
  }

  onApplicationShutdown(): void {
    this.client?.removeAllListeners().on('error', () => undefined);
    this.client?.disconnect();
  }

  private limiterOf(name: string, points: number, seconds: number): RateLimiterRedis {
    return new RateLimiterRedis({
      // The only command of the library's that is used.
      storeClient: { rlflxIncr: (count: Count) => this.batcher.submit(count) },
      keyPrefix: `${KEY_PREFIX}:${name}`,
      points,
      duration: seconds,
    });
  }

  private async count(counts: readonly Count[]): Promise<readonly Counted[]> {
    if (!this.client) throw new Error('There is no Redis to count in.');
    const keys = counts.map(([key]) => key);
    const values = counts.flatMap(([, cost = '', seconds = '', budget = '']) => [cost, seconds, budget]);
    return (await this.client.eval(COUNT_SCRIPT, keys.length, ...keys, ...values)) as readonly Counted[];
  }

  private regain(): void {
    this.up = true;
    this.started();
    if (this.failure === undefined) return;
    this.failure = undefined;
    this.logger.info({ backend: 'redis' }, 'redis is back: rate limits are shared again');
  }
}

/** A connection that never queues: what Redis can't answer now fails at once, and is not sent again. */
function redisOptions({ url, caCert, timeoutMs }: RedisSettings): RedisOptions {
  const { protocol, hostname, port, username, password, pathname } = new URL(url);
  return {
    host: hostname.replace(/^\[|\]$/g, ''),
    port: Number(port || 6379),
    ...(username === '' ? {} : { username: decodeURIComponent(username) }),
    ...(password === '' ? {} : { password: decodeURIComponent(password) }),
    db: Number(pathname.slice(1)),
    ...(protocol === 'rediss:' ? { tls: caCert === undefined ? {} : { ca: caCert } } : {}),
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    connectTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    // Later than the timeout, whose timer survives a connection that was closed.
    retryStrategy: () => Math.max(RETRY_MS, timeoutMs),
    // The count that follows a connection tells more than the server's description of itself, which a role may not read.
    enableReadyCheck: false,
    disableClientInfo: true,
  };
}

/** A reply's first word, such as `READONLY` or `OOM`. The rest may hold values. */
const REPLY_CODE = /^[A-Z]+(?= )/;

/** The reason of a failure without its message: a code of the system or of Redis, or that there was no answer. */
function redisFailure(failure: unknown): string {
  if (failure === undefined) return 'connection closed';
  const [reply] = failure instanceof ReplyError ? (REPLY_CODE.exec(messageOf(failure)) ?? []) : [];
  return systemCode(failure) ?? reply ?? 'no answer';
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : '');
