import { Inject, Injectable } from '@nestjs/common';
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';

const MINUTE_SECONDS = 60;

/** Requests that are counted per minute: by user, or without a valid token by the client's network. */
export type Budget = 'signed-urls' | 'uploads' | 'unauthenticated' | 'link-opens';

/** Counts requests against the budgets of the settings, in minutes that begin with the first request. In this process only. */
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
   * @param points how much is asked for
   * @throws AppError TOO_MANY_REQUESTS when the minute's budget does not allow it
   */
  consume(budget: Budget, who: string | number, points = 1): Promise<unknown> {
    return this.limiters[budget].consume(who, points).catch(async (error: unknown) => {
      if (!(error instanceof RateLimiterRes)) throw error;
      // What was refused was not handed out: a request for less may still be answered.
      await this.limiters[budget].reward(who, points);
      throw new AppError('TOO_MANY_REQUESTS', { retryAfterSeconds: Math.ceil(error.msBeforeNext / 1000) });
    });
  }
}
