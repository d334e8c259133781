import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import jwt from 'jsonwebtoken';
import { LRUCache } from 'lru-cache';
import { createPublicKey, createSecretKey, type KeyObject } from 'node:crypto';
import { type JwtSettings, SETTINGS, type Settings } from '../config/settings.js';
import { parseId } from '../database/parse-id.js';
import { RemoteKeys } from './remote-keys.js';

declare global {
  // Declaration merging extends the types of passport and Express.
  namespace Express {
    interface User {
      readonly id: number;
      /** The `jti` of the token. The main application revokes tokens by `jti`. */
      readonly tokenId?: string | undefined;
    }
  }
}

/** The user of the request: `request.user` after the JwtAuthGuard. */
export type AuthenticatedUser = Express.User;

/** Size of the cache of verified tokens, in characters: about twenty thousand tokens of usual size. */
const REMEMBERED_CHARACTERS = 8 * 1024 * 1024;

/** How much the main application's clock may be ahead of this machine's. Applies to `nbf` and `iat`, never to `exp`. */
const LEEWAY_SECONDS = 60;

/** Maximum remaining lifetime of a token: a year. Tokens of the main application live at most 30 days. */
export const MAX_TOKEN_SECONDS = 366 * 24 * 3600;

type VerifiedToken = {
  readonly user: AuthenticatedUser;
  readonly expiresAtMs: number;
  /** The generation of the keys when the token was verified. */
  readonly generation: number;
};

/**
 * Verifies the bearer tokens of the main application:
 * - the signature, with the configured algorithm and keys
 * - `exp` (required, at most a year from now), `nbf`, `iat`
 * - `sub`: a user id as string or number
 * - the claims required by the settings
 *
 * The database checks with every request whether the user exists.
 *
 * A verified token is cached until the token expires or the keys change: an app sends the same token for days, and checking
 * an RS256 signature takes as long as the rest of a request.
 */
@Injectable()
export class TokenVerifier implements OnModuleInit {
  private readonly verified = new LRUCache<string, VerifiedToken>({
    maxSize: REMEMBERED_CHARACTERS,
    sizeCalculation: (_, token) => token.length,
  });
  private readonly settings: JwtSettings;
  /** The keys from the settings; empty with JWT_JWKS_URL. */
  private readonly keys: readonly KeyObject[];
  private readonly remoteKeys: RemoteKeys | undefined;
  private readonly options: jwt.VerifyOptions & { readonly complete: true };
  private readonly types: ReadonlySet<string> | undefined;

  constructor(@Inject(SETTINGS) { jwt: settings }: Settings) {
    this.settings = settings;
    this.keys = verificationKeys(settings);
    this.remoteKeys = settings.jwks && new RemoteKeys(settings.jwks, settings.algorithm);
    this.types = settings.types && new Set(settings.types.map(mediaTypeOf));
    this.options = {
      complete: true,
      algorithms: [settings.algorithm],
      // Checked by `hasBegun`: the leeway of the library would apply to `exp` as well.
      ignoreNotBefore: true,
      ...(settings.issuer === undefined ? {} : { issuer: settings.issuer }),
      ...(settings.audience === undefined ? {} : { audience: settings.audience }),
    };
  }

  /** Fetches the keys of JWT_JWKS_URL at start, so that no request waits for them. */
  async onModuleInit(): Promise<void> {
    await this.remoteKeys?.renew();
  }

  /**
   * @returns the user of the token; `undefined` when the token is not valid now; a promise only when keys must be fetched
   * @throws AppError OVERLOADED when the token's key is unknown and the keys can't be fetched
   */
  verify(token: string): AuthenticatedUser | undefined | Promise<AuthenticatedUser | undefined> {
    const renewal = this.remoteKeys?.renewal();
    return renewal ? renewal.then(() => this.verifyNow(token)) : this.verifyNow(token);
  }

  /** Removes the token from the cache. The next request with the token verifies the token again. */
  forget(token: string): void {
    this.verified.delete(token);
  }

  /** Number of cached tokens. */
  get remembered(): number {
    return this.verified.size;
  }

  private verifyNow(token: string): AuthenticatedUser | undefined | Promise<AuthenticatedUser | undefined> {
    const generation = this.remoteKeys?.generation ?? 0;
    const known = this.verified.get(token);
    if (known) {
      // `exp` is wall clock time: when the clock is set forward, tokens expire at once.
      if (known.generation === generation && Date.now() < known.expiresAtMs) return known.user;
      this.verified.delete(token);
    }
    const keys = this.remoteKeys ? this.keysOf(token, this.remoteKeys) : this.keys;
    return keys instanceof Promise
      ? keys.then((fetched) => this.check(token, fetched, generation))
      : this.check(token, keys, generation);
  }

  private keysOf(
    token: string,
    remoteKeys: RemoteKeys,
  ): readonly KeyObject[] | Promise<readonly KeyObject[]> {
    const header = headerOf(token);
    // Fetch no keys for a token with a wrong algorithm: no key can make such a token valid.
    return header?.alg === this.settings.algorithm ? remoteKeys.find(header.kid) : [];
  }

  private check(
    token: string,
    keys: readonly KeyObject[],
    generation: number,
  ): AuthenticatedUser | undefined {
    for (const key of keys) {
      const claims = this.claimsOf(token, key);
      if (!claims) continue;
      const { exp } = claims;
      if (typeof exp !== 'number' || exp > Date.now() / 1000 + MAX_TOKEN_SECONDS || !hasBegun(claims))
        return undefined;
      const id = userIdOf(claims);
      if (id === undefined) return undefined;
      const user = { id, tokenId: textOf(claims.jti) };
      this.verified.set(token, { user, expiresAtMs: exp * 1000, generation });
      return user;
    }
    return undefined;
  }

  private claimsOf(token: string, key: KeyObject): jwt.JwtPayload | undefined {
    try {
      const { header, payload } = jwt.verify(token, key, this.options);
      return typeof payload !== 'string' && this.matchesSettings(header, payload) ? payload : undefined;
    } catch {
      // Expired, not valid yet, wrong signature, or invalid JSON: then jsonwebtoken throws the error of JSON.parse.
      return undefined;
    }
  }

  /** Whether header and claims match the settings. */
  private matchesSettings(header: jwt.JwtHeader, claims: jwt.JwtPayload): boolean {
    // `crit` names extensions that the receiver must support (RFC 7515, 4.1.11). This service supports none.
    if ('crit' in header) return false;
    const { typ }: { readonly typ?: unknown } = header;
    if (this.types && !(typeof typ === 'string' && this.types.has(mediaTypeOf(typ)))) return false;
    return (this.settings.requiredClaims ?? []).every(({ name, value }) => {
      const claim: unknown = Object.hasOwn(claims, name) ? claims[name] : undefined;
      return value === undefined ? claim !== undefined && claim !== null : textOf(claim) === value;
    });
  }
}

/** Normalizes `typ` (RFC 7515, 4.1.9): case-insensitive, with or without `application/`. */
function mediaTypeOf(typ: string): string {
  const type = typ.toLowerCase();
  const [, name] = /^application\/([^/]+)$/.exec(type) ?? [];
  return name ?? type;
}

function headerOf(token: string): Partial<jwt.JwtHeader> | undefined {
  try {
    return jwt.decode(token, { complete: true })?.header;
  } catch {
    return undefined;
  }
}

/** Checks `nbf` and `iat`, if present. */
function hasBegun({ nbf, iat }: jwt.JwtPayload): boolean {
  const latest = Date.now() / 1000 + LEEWAY_SECONDS;
  return [nbf, iat].every(
    (time: unknown) => time === undefined || (typeof time === 'number' && time <= latest),
  );
}

/** JWT libraries of Laravel differ: `sub` can be a string or a number. */
function userIdOf({ sub }: { readonly sub?: unknown }): number | undefined {
  if (typeof sub === 'string') return parseId(sub);
  return typeof sub === 'number' && Number.isSafeInteger(sub) && sub > 0 ? sub : undefined;
}

function textOf(claim: unknown): string | undefined {
  return ['string', 'number', 'boolean'].includes(typeof claim) ? String(claim) : undefined;
}

/** Creates the keys once. From a string, jsonwebtoken would create a key per token, and try a public key first. */
function verificationKeys({ algorithm, key, previousKey }: JwtSettings): readonly KeyObject[] {
  return [key, previousKey]
    .filter((text) => text !== undefined)
    .map((text) => (algorithm === 'HS256' ? createSecretKey(Buffer.from(text)) : createPublicKey(text)));
}
