import { Inject, Injectable } from '@nestjs/common';
import jwt from 'jsonwebtoken';
import { LRUCache } from 'lru-cache';
import { createPublicKey, createSecretKey, type KeyObject } from 'node:crypto';
import { type JwtSettings, SETTINGS, type Settings } from '../config/settings.js';
import { parseId } from '../database/parse-id.js';

/** Who sends the request: `request.user` behind the JwtAuthGuard. */
export type AuthenticatedUser = {
  readonly id: number;
  /** The `jti` of the token, by which the main application revokes it. */
  readonly tokenId?: string | undefined;
};

/** How many characters of verified tokens are remembered: some twenty thousand tokens of the usual size. */
const REMEMBERED_CHARACTERS = 8 * 1024 * 1024;

/** By how much the clock of the main application may be ahead of this one's: for `nbf` and `iat`, never for `exp`. */
const LEEWAY_SECONDS = 60;

type VerifiedToken = { readonly user: AuthenticatedUser; readonly expiresAtMs: number };

/**
 * Verifies the bearer tokens that the main application issues: the signature by the one configured algorithm and key,
 * `exp` (required), `nbf` and `iat`, and a `sub` that is a user's id, as text or as a number. Whether that user exists is the database's to say, with every
 * request.
 *
 * A verified token is remembered until it expires, as an app sends the same one for days and checking an RS256
 * signature takes as long as the rest of a request.
 */
@Injectable()
export class TokenVerifier {
  private readonly verified = new LRUCache<string, VerifiedToken>({
    maxSize: REMEMBERED_CHARACTERS,
    sizeCalculation: (_, token) => token.length,
  });
  private readonly key: KeyObject;
  private readonly options: jwt.VerifyOptions;

  constructor(@Inject(SETTINGS) { jwt: settings }: Settings) {
    this.key = verificationKey(settings);
    this.options = {
      algorithms: [settings.algorithm],
      // Looked at below, with a leeway that the library would allow `exp` as well.
      ignoreNotBefore: true,
      ...(settings.issuer === undefined ? {} : { issuer: settings.issuer }),
    };
  }

  /** @returns the user that the token names; `undefined` when it is not valid now */
  verify(token: string): AuthenticatedUser | undefined {
    const known = this.verified.get(token);
    if (known) {
      // By the wall clock, as `exp` is: a clock that is set forward ends tokens at once.
      if (Date.now() < known.expiresAtMs) return known.user;
      this.verified.delete(token);
      return undefined;
    }
    const verified = this.check(token);
    if (verified) this.verified.set(token, verified);
    return verified?.user;
  }

  /** Verifies the token anew when it is sent again. */
  forget(token: string): void {
    this.verified.delete(token);
  }

  /** How many tokens are remembered. */
  get remembered(): number {
    return this.verified.size;
  }

  private check(token: string): VerifiedToken | undefined {
    const claims = this.claimsOf(token);
    if (typeof claims?.exp !== 'number' || !hasBegun(claims)) return undefined;
    const id = userIdOf(claims);
    if (id === undefined) return undefined;
    return { user: { id, tokenId: textOf(claims.jti) }, expiresAtMs: claims.exp * 1000 };
  }

  private claimsOf(token: string): jwt.JwtPayload | undefined {
    try {
      const claims = jwt.verify(token, this.key, this.options);
      return typeof claims === 'string' ? undefined : claims;
    } catch {
      // Expired, not valid yet, wrongly signed; or not even JSON, of which the library throws what its decoder does.
      return undefined;
    }
  }
}

/** By `nbf` and `iat`, each where it is there. */
function hasBegun({ nbf, iat }: jwt.JwtPayload): boolean {
  const latest = Date.now() / 1000 + LEEWAY_SECONDS;
  return [nbf, iat].every(
    (time: unknown) => time === undefined || (typeof time === 'number' && time <= latest),
  );
}

/** Two libraries of the main application's kind differ: one writes `sub` as text, the other as a number. */
function userIdOf({ sub }: { readonly sub?: unknown }): number | undefined {
  if (typeof sub === 'string') return parseId(sub);
  return typeof sub === 'number' && Number.isSafeInteger(sub) && sub > 0 ? sub : undefined;
}

function textOf(claim: unknown): string | undefined {
  return typeof claim === 'string' || typeof claim === 'number' ? String(claim) : undefined;
}

/** Made once: of a text the library would make a key for every token, and try it as a public key first. */
function verificationKey({ algorithm, key }: JwtSettings): KeyObject {
  return algorithm === 'HS256' ? createSecretKey(Buffer.from(key)) : createPublicKey(key);
}
