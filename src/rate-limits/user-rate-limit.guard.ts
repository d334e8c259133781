import {
  type CanActivate,
  type CustomDecorator,
  type ExecutionContext,
  Injectable,
  SetMetadata,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { Request } from 'express';
import { type Budget, RateLimits } from './rate-limits.js';

const RATE_LIMIT = 'rate-limit';

/** Counts the requests of a route against a budget of the user. Routes that return the same thing share a budget. */
export const RateLimited = (budget: Extract<Budget, 'signed-urls' | 'uploads'>): CustomDecorator =>
  SetMetadata(RATE_LIMIT, budget);

/**
 * Enforces the budgets of the settings per user, on routes marked with {@link RateLimited}. Runs after the JwtAuthGuard,
 * so the counted user is the user of the token.
 */
@Injectable()
export class UserRateLimitGuard implements CanActivate {
  constructor(
    private readonly reflector: Reflector,
    private readonly limits: RateLimits,
  ) {}

  canActivate(context: ExecutionContext): boolean | Promise<boolean> {
    const budget = this.reflector.get<Budget | undefined>(RATE_LIMIT, context.getHandler());
    const { user } = context.switchToHttp().getRequest<Request>();
    if (budget === undefined || !user) return true;
    return this.limits.consume(budget, user.id).then(() => true);
  }
}
