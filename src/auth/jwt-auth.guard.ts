import { type ExecutionContext, Inject, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { AuthGuard } from '@nestjs/passport';
import { DEFAULT_IPV6_SUBNET_PREFIX, normalizeIp, ThrottlerStorage } from '@nestjs/throttler';
import type { Request } from 'express';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import type { AuthenticatedUser } from './jwt.strategy.js';
import { PUBLIC } from './public.decorator.js';

const MINUTE_MS = 60_000;

/**
 * Refuses every request without a valid bearer token, on all routes but those marked with `@Public`. Refusals are
 * counted by the client's address, so that guessing tokens gets a 429 before long.
 */
@Injectable()
export class JwtAuthGuard extends AuthGuard('jwt') {
  constructor(
    private readonly reflector: Reflector,
    @Inject(ThrottlerStorage) private readonly hits: ThrottlerStorage,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {
    super();
  }

  override async canActivate(context: ExecutionContext): Promise<boolean> {
    if (this.reflector.getAllAndOverride<string>(PUBLIC, [context.getHandler(), context.getClass()]))
      return true;
    try {
      return (await super.canActivate(context)) as boolean;
    } catch (error) {
      if (error instanceof AppError && error.code === 'UNAUTHENTICATED') await this.countRefusal(context);
      throw error;
    }
  }

  override handleRequest<T = AuthenticatedUser>(error: unknown, user: T | false): T {
    if (error) throw error as Error;
    if (!user) throw new AppError('UNAUTHENTICATED');
    return user;
  }

  private async countRefusal(context: ExecutionContext): Promise<void> {
    const address = normalizeIp(
      context.switchToHttp().getRequest<Request>().ip ?? '',
      DEFAULT_IPV6_SUBNET_PREFIX,
    );
    const limit = this.settings.rateLimits.unauthenticatedPerMinute;
    const name = 'unauthenticated';
    const { isBlocked, timeToBlockExpire } = await this.hits.increment(
      `${name}:${address}`,
      MINUTE_MS,
      limit,
      0,
      name,
    );
    if (isBlocked) throw new AppError('TOO_MANY_REQUESTS', { retryAfterSeconds: timeToBlockExpire });
  }
}
