import { Logger } from '@nestjs/common';
import { createRemoteJWKSet, customFetch, errors, type FetchImplementation } from 'jose';
import { KeyObject } from 'node:crypto';
import type { JwksSettings, JwtSettings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { systemCode } from '../errors/system-code.js';

/** Timeout of a JWKS request. */
const TIMEOUT_MS = 5000;

/** Maximum size of a JWKS response. More than any key set with certificates. A longer response is refused. */
const MAX_BYTES = 64 * 1024;

/** Pause after a JWKS request, successful or not. No request in between, even for tokens with unknown keys. */
const COOL_DOWN_MS = 30_000;

/** Shorter pause while no key is known, because every request waits then. */
const COOL_DOWN_WITHOUT_KEYS_MS = 5000;

class ResponseTooLongError extends Error {
  override readonly name = 'ResponseTooLongError';
}

/**
 * Cache of the keys published at JWT_JWKS_URL (RFC 7517), limited to keys of the configured algorithm.
 *
 * The first request after half of the cache time starts a refresh in the background. Requests wait for a refresh only when
 * the whole cache time is over. A token with an unknown `kid` starts a refresh too, at most once per cool-down. While the
 * JWKS server does not respond, the known keys stay in use.
 */
export class RemoteKeys {
  private readonly logger = new Logger(RemoteKeys.name);
  private readonly keySet: ReturnType<typeof createRemoteJWKSet>;
  private readonly cacheMs: number;
  /** The keys by `kid`. The entry `undefined` has all keys. */
  private keys: ReadonlyMap<unknown, readonly KeyObject[]> | undefined;
  private published = '';
  private generationNumber = 0;
  private failing = false;
  private pending: Promise<void> | undefined;
  /** End of the cool-down, from `performance.now()`, like the next two fields. */
  private coolDownEndsAt = 0;
  /** When the keys should be fetched again. The known keys are still valid. */
  private refreshAt = 0;
  /** When the known keys expire. */
  private expiresAt = 0;

  constructor(
    { url, cacheSeconds }: JwksSettings,
    readonly algorithm: JwtSettings['algorithm'],
  ) {
    this.cacheMs = cacheSeconds * 1000;
    this.keySet = createRemoteJWKSet(new URL(url), {
      timeoutDuration: TIMEOUT_MS,
      // This class decides when to fetch.
      cacheMaxAge: Infinity,
      cooldownDuration: Infinity,
      [customFetch]: fetchBounded,
    });
  }

  /** Number of key changes. Tokens verified in an earlier generation must be verified again. */
  get generation(): number {
    return this.generationNumber;
  }

  /** All known keys that fit the algorithm. */
  get usable(): readonly KeyObject[] {
    return this.keys?.get(undefined) ?? [];
  }

  /** Fetches the keys, once for all waiting requests. Never rejects: after a failure the known keys are kept. */
  renew(): Promise<void> {
    this.pending ??= this.load()
      .catch((error: unknown) => this.keepKnownKeys(error))
      .finally(() => {
        this.pending = undefined;
      });
    return this.pending;
  }

  /**
   * Refreshes the keys when due.
   *
   * @returns a promise only when the caller must wait, because the known keys have expired
   */
  renewal(): Promise<void> | undefined {
    const now = performance.now();
    if (now < this.refreshAt || !this.keys) return undefined;
    const renewed = this.renew();
    return now < this.expiresAt ? undefined : renewed;
  }

  /**
   * The keys that may have signed a token.
   *
   * @param kid the `kid` of the token's header
   * @returns a promise only when the keys are fetched
   * @throws AppError OVERLOADED when the key is unknown and the keys can't be fetched
   */
  find(kid: unknown): readonly KeyObject[] | Promise<readonly KeyObject[]> {
    const found = this.keys?.get(kid);
    if (found) return found;
    return performance.now() < this.coolDownEndsAt
      ? this.known(kid)
      : this.renew().then(() => this.known(kid));
  }

  /**
   * Fetches the keys.
   *
   * @throws an error that {@link reasonOf} explains
   */
  async load(): Promise<void> {
    const start = performance.now();
    await this.keySet.reload();
    const { keys = [] } = this.keySet.jwks() ?? {};
    const published = JSON.stringify(keys);
    if (!this.keys || published !== this.published) {
      const kids = new Set<string | undefined>([undefined, ...keys.map(({ kid }) => kid)]);
      const selected = [...kids].map(async (kid) => [kid, await this.select(kid)] as const);
      this.keys = new Map((await Promise.all(selected)).filter(([, { length }]) => length > 0));
      this.published = published;
      this.generationNumber += 1;
      if (this.usable.length === 0) this.logger.warn('JWT_JWKS_URL publishes no key that fits JWT_ALGORITHM');
    }
    if (this.failing) this.logger.log('the keys of JWT_JWKS_URL can be fetched again');
    this.failing = false;
    this.coolDownEndsAt = performance.now() + COOL_DOWN_MS;
    this.refreshAt = start + this.cacheMs / 2;
    this.expiresAt = start + this.cacheMs;
  }

  private keepKnownKeys(error: unknown): void {
    if (!this.failing)
      this.logger.warn(
        `the keys of JWT_JWKS_URL can not be fetched (${reasonOf(error)}): ${this.keys ? 'those that are known are kept' : 'nobody can be let in'}`,
      );
    this.failing = true;
    this.coolDownEndsAt = performance.now() + (this.keys ? COOL_DOWN_MS : COOL_DOWN_WITHOUT_KEYS_MS);
    this.refreshAt = this.coolDownEndsAt;
    this.expiresAt = Infinity;
  }

  private known(kid: unknown): readonly KeyObject[] {
    const found = this.keys?.get(kid);
    // OVERLOADED instead of a refusal: the key may be new, and a refused token logs its user out.
    if (!found && this.failing) throw new AppError('OVERLOADED');
    return found ?? [];
  }

  /** jose selects the keys that fit, by `kty`, `alg`, `use`, `key_ops` and `crv`. */
  private async select(kid: string | undefined): Promise<readonly KeyObject[]> {
    const header = { alg: this.algorithm, ...(kid === undefined ? {} : { kid }) };
    try {
      return [KeyObject.from(await this.keySet(header))];
    } catch (error) {
      // No key fits, or the key is malformed.
      if (!(error instanceof errors.JWKSMultipleMatchingKeys)) return [];
      const several: KeyObject[] = [];
      for await (const key of error) several.push(KeyObject.from(key));
      return several;
    }
  }
}

/** Why the keys could not be fetched, in a few words without any setting's value. */
export function reasonOf(error: unknown): string {
  if (error instanceof errors.JWKSTimeout) return `no answer within ${TIMEOUT_MS / 1000} s`;
  if (error instanceof errors.JWKSInvalid) return 'the answer is no set of keys';
  if (error instanceof ResponseTooLongError) return `the answer is longer than ${MAX_BYTES / 1024} KiB`;
  if (error instanceof errors.JOSEError) return error.message;
  return systemCode(error) ?? 'no answer';
}

const fetchBounded: FetchImplementation = async (url, options) => {
  const { status, body } = await fetch(url, options);
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of (body ?? []) as AsyncIterable<Uint8Array>) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > MAX_BYTES) throw new ResponseTooLongError();
  }
  return new Response(chunks.length === 0 ? null : Buffer.concat(chunks), { status });
};
