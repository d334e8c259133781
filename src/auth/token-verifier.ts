import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import jwt from 'jsonwebtoken';
import { LRUCache } from 'lru-cache';
import { createPublicKey, createSecretKey, type KeyObject } from 'node:crypto';
import { type JwtSettings, SETTINGS, type Settings } from '../config/settings.js';
import { parseId } from '../database/parse-id.js';
import { RemoteKeys } from './remote-keys.js';

declare global {
  // The types of passport and Express are extended by merging.
  namespace Express {
    interface User {
      readonly id: number;
      /** The `jti` of the token, by which the main application revokes it. */
      readonly tokenId?: string | undefined;
    }
  }
}

/** Who sends the request: `request.user` behind the JwtAuthGuard. */
export type AuthenticatedUser = Express.User;

/** How many characters of verified tokens are remembered: some twenty thousand tokens of the usual size. */
const REMEMBERED_CHARACTERS = 8 * 1024 * 1024;

/** By how much the clock of the main application may be ahead of this one's: for `nbf` and `iat`, never for `exp`. */
const LEEWAY_SECONDS = 60;

/** The longest that a token may be valid from now on: a year. Tokens of the main application live for 30 days at most. */
export const MAX_TOKEN_SECONDS = 366 * 24 * 3600;

type VerifiedToken = {
  readonly user: AuthenticatedUser;
  readonly expiresAtMs: number;
  /** The generation of the keys by which it was verified. */
  readonly generation: number;
};

/**
 * Verifies the bearer tokens that the main application issues: the signature by the one configured algorithm and its keys,
 * `exp` (required, a year from now at most), `nbf` and `iat`, a `sub` that is a user's id, as text or as a number, and what
 * else the settings pin. Whether that user exists is the database's to say, with every request.
 *
 * A verified token is remembered until it expires or the keys change, as an app sends the same one for days and checking
 * an RS256 signature takes as long as the rest of a request.
 */
@Injectable()
export class TokenVerifier implements OnModuleInit {
  private readonly verified = new LRUCache<string, VerifiedToken>({
    maxSize: REMEMBERED_CHARACTERS,
    sizeCalculation: (_, token) => token.length,
  });
  private readonly settings: JwtSettings;
  /** The keys of the settings; there are none where they are fetched. */
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
      // Looked at below, with a leeway that the library would allow `exp` as well.
      ignoreNotBefore: true,
      ...(settings.issuer === undefined ? {} : { issuer: settings.issuer }),
      ...(settings.audience === undefined ? {} : { audience: settings.audience }),
    };
  }

  /** Has the keys fetched, where they are another server's, so that no request waits for them. */
  async onModuleInit(): Promise<void> {
    await this.remoteKeys?.renew();
  }

  /**
   * @returns the user that the token names; `undefined` when it is not valid now; a promise only where keys must be fetched
   * @throws AppError OVERLOADED where they can not be, and the token's is not known
   */
  verify(token: string): AuthenticatedUser | undefined | Promise<AuthenticatedUser | undefined> {
    const renewal = this.remoteKeys?.renewal();
    return renewal ? renewal.then(() => this.verifyNow(token)) : this.verifyNow(token);
  }

  /** Verifies the token anew when it is sent again. */
  forget(token: string): void {
    this.verified.delete(token);
  }

  /** How many tokens are remembered. */
  get remembered(): number {
    return this.verified.size;
  }

  private verifyNow(token: string): AuthenticatedUser | undefined | Promise<AuthenticatedUser | undefined> {
    const generation = this.remoteKeys?.generation ?? 0;
    const known = this.verified.get(token);
    if (known) {
      // By the wall clock, as `exp` is: a clock that is set forward ends tokens at once.
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
    // No key is fetched for a token that none could save.
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
      return typeof payload !== 'string' && this.isPinned(header, payload) ? payload : undefined;
    } catch {
      // Expired, not valid yet, wrongly signed; or not even JSON, of which the library throws what its decoder does.
      return undefined;
    }
  }

  /** Whether header and claims are as the settings say. */
  private isPinned(header: jwt.JwtHeader, claims: jwt.JwtPayload): boolean {
    // It names extensions that the receiver must understand (RFC 7515, 4.1.11). None is understood here.
    if ('crit' in header) return false;
    const { typ }: { readonly typ?: unknown } = header;
    if (this.types && !(typeof typ === 'string' && this.types.has(mediaTypeOf(typ)))) return false;
    return (this.settings.requiredClaims ?? []).every(({ name, value }) => {
      const claim: unknown = Object.hasOwn(claims, name) ? claims[name] : undefined;
      return value === undefined ? claim !== undefined && claim !== null : textOf(claim) === value;
    });
  }
}

/** As RFC 7515, 4.1.9 has it: in any case, and with or without `application/`. */
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
  return ['string', 'number', 'boolean'].includes(typeof claim) ? String(claim) : undefined;
}

/** Made once: of a text the library would make a key for every token, and try it as a public key first. */
function verificationKeys({ algorithm, key, previousKey }: JwtSettings): readonly KeyObject[] {
  return [key, previousKey]
    .filter((text) => text !== undefined)
    .map((text) => (algorithm === 'HS256' ? createSecretKey(Buffer.from(text)) : createPublicKey(text)));
}
