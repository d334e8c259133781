import { type CanActivate, type ExecutionContext, Inject, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { Request } from 'express';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { PHASE_RULES } from '../migration/migration-phase.js';
import { clientNetwork } from '../rate-limits/client-network.js';
import { RateLimits } from '../rate-limits/rate-limits.js';
import { OPEN_BY_LINK } from './open-by-link.decorator.js';
import { PUBLIC } from './public.decorator.js';
import { SessionRevocations } from './session-revocations.js';
import { type AuthenticatedUser, TokenVerifier } from './token-verifier.js';

declare global {
  // Express' types are extended by merging.
  namespace Express {
    interface Request {
      /** Set by the JwtAuthGuard. */
      user?: AuthenticatedUser;
    }
  }
}

/** The scheme, and the token alone (RFC 6750, 2.1). */
const BEARER = /^Bearer +([\w.~+/-]+=*)$/i;

/** The header of an app without a token: none, an empty one, or the scheme alone. */
const NO_TOKEN = /^(Bearer)? *$/i;

/** The bearer token of a request; `undefined` when it has none, or something else in its place. */
export function bearerToken({ headers }: Request): string | undefined {
  return BEARER.exec(headers.authorization ?? '')?.[1];
}

/**
 * Refuses every request without a valid bearer token, on all routes but those marked with `@Public`. Refusals are
 * counted by the client's network, so that guessing tokens gets a 429 before long.
 */
@Injectable()
export class JwtAuthGuard implements CanActivate {
  private readonly opensLinks: boolean;

  constructor(
    private readonly reflector: Reflector,
    private readonly tokens: TokenVerifier,
    private readonly revocations: SessionRevocations,
    private readonly limits: RateLimits,
    @Inject(SETTINGS) { migration }: Settings,
  ) {
    this.opensLinks = PHASE_RULES[migration.phase].withoutToken === 'opened by link';
  }

  canActivate(context: ExecutionContext): boolean | Promise<boolean> {
    if (this.reflector.get(PUBLIC, context.getHandler()) ?? this.reflector.get(PUBLIC, context.getClass()))
      return true;
    const request = context.switchToHttp().getRequest<Request>();
    const token = bearerToken(request);
    const user = token === undefined ? undefined : this.tokens.verify(token);
    return user instanceof Promise
      ? user.then((verified) => this.admit(context, request, verified))
      : this.admit(context, request, user);
  }

  private admit(
    context: ExecutionContext,
    request: Request,
    user: AuthenticatedUser | undefined,
  ): boolean | Promise<boolean> {
    if (!user) return this.isOpenByLink(context, request) || this.refuse(request);
    const revoked = this.revocations.isRevoked(user.tokenId);
    if (revoked === false) {
      request.user = user;
      return true;
    }
    return this.admitUnlessRevoked(request, user, revoked);
  }

  private isOpenByLink(context: ExecutionContext, { headers }: Request): boolean {
    return (
      this.opensLinks &&
      NO_TOKEN.test(headers.authorization ?? '') &&
      this.reflector.get<boolean | undefined>(OPEN_BY_LINK, context.getHandler()) === true
    );
  }

  private async admitUnlessRevoked(
    request: Request,
    user: AuthenticatedUser,
    revoked: true | Promise<boolean>,
  ): Promise<boolean> {
    if (await revoked) return this.refuse(request);
    request.user = user;
    return true;
  }

  private async refuse(request: Request): Promise<never> {
    await this.limits.consume('unauthenticated', clientNetwork(request));
    throw new AppError('UNAUTHENTICATED');
  }
}
