import { Inject, Injectable } from '@nestjs/common';
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';

const MINUTE_SECONDS = 60;

/** Requests counted per minute: per user, or per client network without a valid token. */
export type Budget = 'signed-urls' | 'uploads' | 'unauthenticated' | 'link-opens';

/** Counts requests against the budgets of the settings. A minute begins with the first request. Per process. */
@Injectable()
export class RateLimits {
  private readonly limiters: Readonly<Record<Budget, RateLimiterMemory>>;

  constructor(@Inject(SETTINGS) { rateLimits }: Settings) {
    const perMinute = (points: number): RateLimiterMemory =>
      new RateLimiterMemory({ points, duration: MINUTE_SECONDS });
    this.limiters = {
      'signed-urls': perMinute(rateLimits.signedUrlsPerMinute),
      uploads: perMinute(rateLimits.uploadsPerMinute),
      unauthenticated: perMinute(rateLimits.unauthenticatedPerMinute),
      'link-opens': perMinute(rateLimits.linkOpensPerMinute),
    };
  }

  /**
   * @param who a user's id, or a network
   * @param points cost of the request
   * @throws AppError TOO_MANY_REQUESTS when the minute's budget is used up
   */
  consume(budget: Budget, who: string | number, points = 1): Promise<unknown> {
    return this.limiters[budget].consume(who, points).catch(async (error: unknown) => {
      if (!(error instanceof RateLimiterRes)) throw error;
      // A refused request costs nothing: a cheaper request may still be served.
      await this.limiters[budget].reward(who, points);
      throw new AppError('TOO_MANY_REQUESTS', { retryAfterSeconds: Math.ceil(error.msBeforeNext / 1000) });
    });
  }
}
