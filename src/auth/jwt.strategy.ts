import { Injectable } from '@nestjs/common';
import { PassportStrategy } from '@nestjs/passport';
import type { Request } from 'express';
import { Strategy } from 'passport-jwt';
import { SessionRevocations } from './session-revocations.js';
import { type AuthenticatedUser, TokenVerifier } from './token-verifier.js';

/** The scheme, and the token alone (RFC 6750, 2.1). */
const BEARER = /^Bearer +([\w.~+/-]+=*)$/i;

/** The bearer token of a request; `null` when it has none, or something else in its place. */
export function bearerToken({ headers }: Request): string | null {
  return BEARER.exec(headers.authorization ?? '')?.[1] ?? null;
}

type Done = (error: Error | null, user?: AuthenticatedUser) => void;

/**
 * Replaces passport-jwt's verifier, which remembers no tokens. passport-jwt hands over what it holds for the key: here the
 * TokenVerifier, which has the keys.
 */
const verifyToken = (token: string, tokens: TokenVerifier, _options: unknown, done: Done): void => {
  const invalid = new Error('The token is not valid.');
  const tell = (user: AuthenticatedUser | undefined): void => done(user ? null : invalid, user);
  const user = tokens.verify(token);
  if (user instanceof Promise) user.then(tell, done);
  else tell(user);
};

/** Names the user of a bearer token that is valid and not revoked. */
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
      // Typed as a text or a Buffer. Only `verifyToken` gets it.
      secretOrKeyProvider: (_request, _token, done) => done(null, tokens as unknown as string),
    });
  }

  /** @returns `null` for a token that the main application has revoked */
  async validate(user: AuthenticatedUser): Promise<AuthenticatedUser | null> {
    return (await this.revocations.isRevoked(user.tokenId)) ? null : user;
  }
}
