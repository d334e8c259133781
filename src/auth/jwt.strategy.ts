import { Injectable } from '@nestjs/common';
import { PassportStrategy } from '@nestjs/passport';
import type { Request } from 'express';
import { Strategy } from 'passport-jwt';
import { SessionRevocations } from './session-revocations.js';
import { type AuthenticatedUser, TokenVerifier } from './token-verifier.js';

/** The scheme `Bearer` and a token (RFC 6750, 2.1). */
const BEARER = /^Bearer +([\w.~+/-]+=*)$/i;

/** The bearer token of a request; `null` when the request header is missing or has another form. */
export function bearerToken({ headers }: Request): string | null {
  return BEARER.exec(headers.authorization ?? '')?.[1] ?? null;
}

type Done = (error: Error | null, user?: AuthenticatedUser) => void;

/**
 * Replaces passport-jwt's verifier, which has no cache of tokens. passport-jwt passes the result of `secretOrKeyProvider`,
 * normally a key. Here the result is the TokenVerifier.
 */
const verifyToken = (token: string, tokens: TokenVerifier, _options: unknown, done: Done): void => {
  const invalid = new Error('The token is not valid.');
  const finish = (user: AuthenticatedUser | undefined): void => done(user ? null : invalid, user);
  const user = tokens.verify(token);
  if (user instanceof Promise) user.then(finish, done);
  else finish(user);
};

/** Finds the user of a valid bearer token that is not revoked. */
@Injectable()
export class JwtStrategy extends PassportStrategy(Strategy) {
  static {
    Object.assign(Strategy, { JwtVerifier: verifyToken });
  }

  constructor(
    tokens: TokenVerifier,
    private readonly revocations: SessionRevocations,
  ) {
    super({
      jwtFromRequest: bearerToken,
      // passport-jwt's types allow only string or Buffer. The value reaches only `verifyToken`.
      secretOrKeyProvider: (_request, _token, done) => done(null, tokens as unknown as string),
    });
  }

  /** @returns `null` for a token that the main application has revoked */
  async validate(user: AuthenticatedUser): Promise<AuthenticatedUser | null> {
    return (await this.revocations.isRevoked(user.tokenId)) ? null : user;
  }
}
