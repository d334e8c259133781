import { Inject, Injectable } from '@nestjs/common';
import { RateLimiterMemory, type RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { SharedRedis } from './shared-redis.js';

const MINUTE_SECONDS = 60;

/** Requests counted per minute: per user, or per client network without a valid token. */
export type Budget = 'signed-urls' | 'uploads' | 'unauthenticated' | 'link-opens';

/** The counters of a budget: of this process, and with REDIS_URL of all instances. */
type Counters = { readonly own: RateLimiterMemory; readonly shared: RateLimiterRedis | undefined };

/**
 * Counts requests against the budgets of the settings. A minute begins with the first request. Counts in Redis for all
 * instances together; without Redis, or while it is away, per process.
 */
@Injectable()
export class RateLimits {
  private readonly counters: Readonly<Record<Budget, Counters>>;

  constructor(
    @Inject(SETTINGS) { rateLimits }: Settings,
    private readonly redis: SharedRedis,
  ) {
    const perMinute = (budget: Budget, points: number): Counters => ({
      own: new RateLimiterMemory({ points, duration: MINUTE_SECONDS }),
      shared: redis.limiter(budget, points, MINUTE_SECONDS),
    });
    this.counters = {
      'signed-urls': perMinute('signed-urls', rateLimits.signedUrlsPerMinute),
      uploads: perMinute('uploads', rateLimits.uploadsPerMinute),
      unauthenticated: perMinute('unauthenticated', rateLimits.unauthenticatedPerMinute),
      'link-opens': perMinute('link-opens', rateLimits.linkOpensPerMinute),
    };
  }

  /**
   * @param who a user's id, or a network
   * @param points cost of the request
   * @throws AppError TOO_MANY_REQUESTS when the minute's budget is used up
   */
  consume(budget: Budget, who: string | number, points = 1): Promise<unknown> {
    const { own, shared } = this.counters[budget];
    const counted =
      shared && this.redis.state === 'up' && points > 0
        ? shared.consume(who, points).catch((error: unknown) => {
            if (error instanceof RateLimiterRes) throw error;
            this.redis.lose(error);
            return consumeOwn(own, who, points);
          })
        : consumeOwn(own, who, points);
    return counted.catch((error: unknown) => {
      if (!(error instanceof RateLimiterRes)) throw error;
      throw new AppError('TOO_MANY_REQUESTS', { retryAfterSeconds: Math.ceil(error.msBeforeNext / 1000) });
    });
  }
}

/** A refused request costs nothing: a cheaper request may still be served. */
function consumeOwn(own: RateLimiterMemory, who: string | number, points: number): Promise<unknown> {
  return own.consume(who, points).catch(async (refusal: unknown) => {
    await own.reward(who, points);
    throw refusal;
  });
}
