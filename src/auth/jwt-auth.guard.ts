import { type CanActivate, type ExecutionContext, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { Request } from 'express';
import ipaddr from 'ipaddr.js';
import { AppError } from '../errors/app-error.js';
import { RateLimits } from '../rate-limits/rate-limits.js';
import { PUBLIC } from './public.decorator.js';
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

/** The bearer token of a request; `undefined` when it has none, or something else in its place. */
export function bearerToken({ headers }: Request): string | undefined {
  return BEARER.exec(headers.authorization ?? '')?.[1];
}

/**
 * Refuses every request without a valid bearer token, on all routes but those marked with `@Public`. Refusals are
 * counted by the client's address, so that guessing tokens gets a 429 before long.
 */
@Injectable()
export class JwtAuthGuard implements CanActivate {
  constructor(
    private readonly reflector: Reflector,
    private readonly tokens: TokenVerifier,
    private readonly limits: RateLimits,
  ) {}

  canActivate(context: ExecutionContext): boolean | Promise<boolean> {
    if (this.reflector.get(PUBLIC, context.getHandler()) ?? this.reflector.get(PUBLIC, context.getClass()))
      return true;
    const request = context.switchToHttp().getRequest<Request>();
    const token = bearerToken(request);
    const user = token === undefined ? undefined : this.tokens.verify(token);
    if (!user) return this.refuse(request);
    request.user = user;
    return true;
  }

  private async refuse(request: Request): Promise<never> {
    await this.limits.consume('unauthenticated', clientNetwork(request.ip ?? ''));
    throw new AppError('UNAUTHENTICATED');
  }
}

/** The network of one subscriber: an IPv4 address, or the /64 of an IPv6 one, as a household has all of that. */
function clientNetwork(ip: string): string {
  if (!ipaddr.isValid(ip)) return ip;
  const address = ipaddr.process(ip);
  return address.kind() === 'ipv6' ? address.toByteArray().slice(0, 8).join(':') : address.toString();
}
