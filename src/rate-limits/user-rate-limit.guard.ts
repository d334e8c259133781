import { type CustomDecorator, type ExecutionContext, Injectable, SetMetadata } from '@nestjs/common';
import { ThrottlerGuard, type ThrottlerLimitDetail } from '@nestjs/throttler';
import type { Request } from 'express';
import { AppError } from '../errors/app-error.js';

/** The budgets that a user has per minute; routes that hand out the same thing share one. */
export type RateLimit = 'signed-urls' | 'uploads';

const RATE_LIMIT = 'rate-limit';

/** Counts the requests of a route against one of the user's budgets. */
export const RateLimited = (budget: RateLimit): CustomDecorator => SetMetadata(RATE_LIMIT, budget);

/**
 * Holds each user to the budgets of the settings, on the routes marked with {@link RateLimited}. Runs behind the
 * JwtAuthGuard, so the counted user is the one that the token names. Counts are those of this process.
 */
@Injectable()
export class UserRateLimitGuard extends ThrottlerGuard {
  /** Used as `skipIf` of the throttler with that name: a route counts against its own budget only. */
  static skips(budget: RateLimit): (context: ExecutionContext) => boolean {
    return (context) => Reflect.getMetadata(RATE_LIMIT, context.getHandler()) !== budget;
  }

  protected override getTracker(request: Request): Promise<string> {
    return Promise.resolve(String(request.user?.id));
  }

  protected override generateKey(_: ExecutionContext, user: string, budget: string): string {
    return `${budget}:${user}`;
  }

  protected override throwThrottlingException(
    _: ExecutionContext,
    detail: ThrottlerLimitDetail,
  ): Promise<void> {
    throw new AppError('TOO_MANY_REQUESTS', { retryAfterSeconds: detail.timeToBlockExpire });
  }
}
