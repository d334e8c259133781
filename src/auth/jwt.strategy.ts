import { createPublicKey, createSecretKey, type KeyObject } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { PassportStrategy } from '@nestjs/passport';
import { InjectRepository } from '@nestjs/typeorm';
import type { Request } from 'express';
import { Strategy } from 'passport-jwt';
import { Repository } from 'typeorm';
import { type JwtSettings, SETTINGS, type Settings } from '../config/settings.js';
import { User } from '../users/user.entity.js';
import { parseId } from '../database/parse-id.js';

/** Who sends the request: `request.user` behind the JwtAuthGuard. */
export type AuthenticatedUser = { readonly id: number };

declare global {
  namespace Express {
    // Passport's types leave it to the application what a user is.
    interface User {
      readonly id: number;
    }
  }
}

/** The scheme, and the token alone (RFC 6750, 2.1). */
const BEARER = /^Bearer +([\w.~+/-]+=*)$/i;

/**
 * Verifies the bearer tokens that the main application issues: signature by the one configured algorithm and key,
 * `exp` (required) and `nbf`, then that `sub` is an existing user.
 */
@Injectable()
export class JwtStrategy extends PassportStrategy(Strategy) {
  constructor(
    @Inject(SETTINGS) { jwt }: Settings,
    @InjectRepository(User) private readonly users: Repository<User>,
  ) {
    super({
      jwtFromRequest: ({ headers }: Request) => BEARER.exec(headers.authorization ?? '')?.[1] ?? null,
      // The types know only texts; jsonwebtoken, which is handed it, takes a key as well.
      secretOrKey: verificationKey(jwt) as unknown as Buffer,
      algorithms: [jwt.algorithm],
      ...(jwt.issuer === undefined ? {} : { issuer: jwt.issuer }),
    });
  }

  /** Called with the claims of a token whose signature and times are right; `false` refuses it. */
  async validate(claims: {
    readonly sub?: unknown;
    readonly exp?: unknown;
  }): Promise<AuthenticatedUser | false> {
    if (typeof claims.exp !== 'number' || typeof claims.sub !== 'string') return false;
    const id = parseId(claims.sub);
    if (id === undefined || !(await this.users.existsBy({ id }))) return false;
    return { id };
  }
}

/** Made once: of a text the library would make a key for every token, and try it as a public key first. */
function verificationKey({ algorithm, key }: JwtSettings): KeyObject {
  return algorithm === 'HS256' ? createSecretKey(Buffer.from(key)) : createPublicKey(key);
}
