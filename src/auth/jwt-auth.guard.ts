import { type ExecutionContext, Inject, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { AuthGuard } from '@nestjs/passport';
import type { Request } from 'express';
import { type MigrationPhase, SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { PHASE_RULES } from '../config/migration-phase.js';
import { clientNetwork } from '../rate-limits/client-network.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { RateLimits } from '../rate-limits/rate-limits.js';
import type { AuthenticatedUser } from './token-verifier.js';
import { OPEN_BY_LINK } from './open-by-link.decorator.js';
import { isPublic } from './public.decorator.js';

/** The request header Authorization of an app without a token: missing, empty, or only the scheme. */
const NO_TOKEN = /^(Bearer)? *$/i;

/**
 * Refuses requests without a valid bearer token, on all routes except those marked with `@Public`. Refused requests are
 * counted per client network, so that guessing tokens leads to 429.
 */
@Injectable()
export class JwtAuthGuard extends AuthGuard('jwt') {
  private readonly phase: MigrationPhase;
  private readonly opensLinks: boolean;

  constructor(
    private readonly reflector: Reflector,
    private readonly limits: RateLimits,
    @Inject(SETTINGS) { migration }: Settings,
    @Inject(METRICS) private readonly metrics: Metrics,
  ) {
    super();
    this.phase = migration.phase;
    this.opensLinks = PHASE_RULES[migration.phase].withoutToken === 'opened by link';
  }

  override async canActivate(context: ExecutionContext): Promise<boolean> {
    if (isPublic(this.reflector, context)) return true;
    const request = context.switchToHttp().getRequest<Request>();
    if (this.opensLinks && this.isWithoutToken(context, request)) return true;
    await super.canActivate(context);
    if (request.user) return true;
    if (request.method === 'GET' && this.isWithoutToken(context, request))
      this.metrics?.openedWithoutToken(this.phase, 'refused');
    await this.limits.consume('unauthenticated', clientNetwork(request));
    throw new AppError('UNAUTHENTICATED');
  }

  /**
   * An object of its own for passport, which adds ten properties to the request that it gets. On Express' request they would
   * make later properties slower. The JwtStrategy reads the headers only.
   */
  override getRequest(context: ExecutionContext): Pick<Request, 'headers'> {
    const { headers } = context.switchToHttp().getRequest<Request>();
    return { headers };
  }

  /**
   * @param reason why there is no user. Only an AppError is passed on: the token can't be verified now.
   * @returns the user found by the JwtStrategy, if any
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

  /** Whether a stable address is opened without a token. */
  private isWithoutToken(context: ExecutionContext, { headers }: Request): boolean {
    return (
      NO_TOKEN.test(headers.authorization ?? '') &&
      this.reflector.get<boolean | undefined>(OPEN_BY_LINK, context.getHandler()) === true
    );
  }
}
