import { type ExecutionContext, Inject, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { AuthGuard } from '@nestjs/passport';
import type { Request } from 'express';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { PHASE_RULES } from '../config/migration-phase.js';
import { clientNetwork } from '../rate-limits/client-network.js';
import { RateLimits } from '../rate-limits/rate-limits.js';
import type { AuthenticatedUser } from './token-verifier.js';
import { OPEN_BY_LINK } from './open-by-link.decorator.js';
import { PUBLIC } from './public.decorator.js';

/** The header of an app without a token: none, an empty one, or the scheme alone. */
const NO_TOKEN = /^(Bearer)? *$/i;

/**
 * Refuses every request without a valid bearer token, on all routes but those marked with `@Public`. Refusals are
 * counted by the client's network, so that guessing tokens gets a 429 before long.
 */
@Injectable()
export class JwtAuthGuard extends AuthGuard('jwt') {
  private readonly opensLinks: boolean;

  constructor(
    private readonly reflector: Reflector,
    private readonly limits: RateLimits,
    @Inject(SETTINGS) { migration }: Settings,
  ) {
    super();
    this.opensLinks = PHASE_RULES[migration.phase].withoutToken === 'opened by link';
  }

  override async canActivate(context: ExecutionContext): Promise<boolean> {
    if (this.reflector.get(PUBLIC, context.getHandler()) ?? this.reflector.get(PUBLIC, context.getClass()))
      return true;
    const request = context.switchToHttp().getRequest<Request>();
    if (this.isOpenByLink(context, request)) return true;
    await super.canActivate(context);
    if (request.user) return true;
    await this.limits.consume('unauthenticated', clientNetwork(request));
    throw new AppError('UNAUTHENTICATED');
  }

  /**
   * passport adds ten properties to the request that it gets. On Express' request they would make each later property slower,
   * so passport gets an object of its own. The strategy reads the headers only.
   */
  override getRequest(context: ExecutionContext): Pick<Request, 'headers'> {
    const { headers } = context.switchToHttp().getRequest<Request>();
    return { headers };
  }

  /**
   * @param reason why there is no user: not told to the client, but for a token that can't be verified now
   * @returns the user that the strategy has found, if any
   */
  override handleRequest<User extends AuthenticatedUser>(
    error: unknown,
    user: User | false | null,
    reason: unknown,
    context: ExecutionContext,
  ): User | undefined {
    if (error instanceof Error) throw error;
    if (reason instanceof AppError) throw reason;
    if (user === null || user === false) return undefined;
    context.switchToHttp().getRequest<Request>().user = user;
    return user;
  }

  private isOpenByLink(context: ExecutionContext, { headers }: Request): boolean {
    return (
      this.opensLinks &&
      NO_TOKEN.test(headers.authorization ?? '') &&
      this.reflector.get<boolean | undefined>(OPEN_BY_LINK, context.getHandler()) === true
    );
  }
}
