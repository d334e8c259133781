import { Logger } from '@nestjs/common';
import { createRemoteJWKSet, customFetch, errors, type FetchImplementation } from 'jose';
import { KeyObject } from 'node:crypto';
import type { JwksSettings, JwtSettings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { systemCode } from '../errors/system-code.js';

/** How long the server of the keys may take. */
const TIMEOUT_MS = 5000;

/** More than any set of keys, with certificates: of a longer answer the rest is left. */
const MAX_BYTES = 64 * 1024;

/** How long after an answer, or after none, the server is not asked again, whatever tokens name. */
const COOL_DOWN_MS = 30_000;

/** The same while no key is known at all, so that everybody waits. */
const COOL_DOWN_WITHOUT_KEYS_MS = 5000;

class TooLongError extends Error {
  override readonly name = 'TooLongError';
}

/**
 * The keys that JWT_JWKS_URL publishes (RFC 7517), of those the ones that may sign with the configured algorithm.
 *
 * They are fetched anew in half of their cache time, by whatever request comes then, and requests wait for that only when
 * the keys have become older than allowed. A token that names an unknown key has them fetched too, once in a cool-down.
 * While the server does not answer, the keys that are known go on being used.
 */
export class RemoteKeys {
  private readonly logger = new Logger(RemoteKeys.name);
  private readonly keySet: ReturnType<typeof createRemoteJWKSet>;
  private readonly cacheMs: number;
  /** By `kid`, and under `undefined` all of them. */
  private keys: ReadonlyMap<unknown, readonly KeyObject[]> | undefined;
  private published = '';
  private generationNumber = 0;
  private failing = false;
  private pending: Promise<void> | undefined;
  /** From when on the server may be asked again, by the clock of `performance.now()`, as the two below. */
  private askableAt = 0;
  /** From when on the keys are fetched anew, while the old ones still do. */
  private renewableAt = 0;
  /** From when on the old ones do no longer. */
  private tooOldAt = 0;

  constructor(
    { url, cacheSeconds }: JwksSettings,
    readonly algorithm: JwtSettings['algorithm'],
  ) {
    this.cacheMs = cacheSeconds * 1000;
    this.keySet = createRemoteJWKSet(new URL(url), {
      timeoutDuration: TIMEOUT_MS,
      // When it is asked is decided here.
      cacheMaxAge: Infinity,
      cooldownDuration: Infinity,
      [customFetch]: fetchBounded,
    });
  }

  /** Counts the changes of the keys: what was verified by an earlier generation is verified anew. */
  get generation(): number {
    return this.generationNumber;
  }

  /** Every key that is known and fits the algorithm. */
  get usable(): readonly KeyObject[] {
    return this.keys?.get(undefined) ?? [];
  }

  /** Fetches the keys, once for all who wait. Never rejects: what is known is kept while the server does not answer. */
  renew(): Promise<void> {
    this.pending ??= this.load()
      .catch((error: unknown) => this.keepOn(error))
      .finally(() => {
        this.pending = undefined;
      });
    return this.pending;
  }

  /**
   * Sees to it that the keys are no older than allowed.
   *
   * @returns a promise only where that must be waited for
   */
  renewal(): Promise<void> | undefined {
    const now = performance.now();
    if (now < this.renewableAt || !this.keys) return undefined;
    const renewed = this.renew();
    return now < this.tooOldAt ? undefined : renewed;
  }

  /**
   * The keys that may have signed a token.
   *
   * @param kid the `kid` of its header
   * @returns a promise only where the server is asked
   * @throws AppError OVERLOADED while nobody can say whether there is such a key
   */
  find(kid: unknown): readonly KeyObject[] | Promise<readonly KeyObject[]> {
    const found = this.keys?.get(kid);
    if (found) return found;
    return performance.now() < this.askableAt ? this.known(kid) : this.renew().then(() => this.known(kid));
  }

  /**
   * Fetches the keys.
   *
   * @throws what {@link reasonOf} tells the reason of
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
    this.askableAt = performance.now() + COOL_DOWN_MS;
    this.renewableAt = start + this.cacheMs / 2;
    this.tooOldAt = start + this.cacheMs;
  }

  private keepOn(error: unknown): void {
    if (!this.failing)
      this.logger.warn(
        `the keys of JWT_JWKS_URL can not be fetched (${reasonOf(error)}): ${this.keys ? 'those that are known are kept' : 'nobody can be let in'}`,
      );
    this.failing = true;
    this.askableAt = performance.now() + (this.keys ? COOL_DOWN_MS : COOL_DOWN_WITHOUT_KEYS_MS);
    this.renewableAt = this.askableAt;
    this.tooOldAt = Infinity;
  }

  private known(kid: unknown): readonly KeyObject[] {
    const found = this.keys?.get(kid);
    // A token by a new key would be refused for good, and its user logged out.
    if (!found && this.failing) throw new AppError('OVERLOADED');
    return found ?? [];
  }

  /** The library knows which keys fit, by `kty`, `alg`, `use`, `key_ops` and `crv`. */
  private async select(kid: string | undefined): Promise<readonly KeyObject[]> {
    const header = { alg: this.algorithm, ...(kid === undefined ? {} : { kid }) };
    try {
      return [KeyObject.from(await this.keySet(header))];
    } catch (error) {
      // No key fits, or one that is malformed.
      if (!(error instanceof errors.JWKSMultipleMatchingKeys)) return [];
      const several: KeyObject[] = [];
      for await (const key of error) several.push(KeyObject.from(key));
      return several;
    }
  }
}

/** Why the keys could not be fetched, in a few words without a value. */
export function reasonOf(error: unknown): string {
  if (error instanceof errors.JWKSTimeout) return `no answer within ${TIMEOUT_MS / 1000} s`;
  if (error instanceof errors.JWKSInvalid) return 'the answer is no set of keys';
  if (error instanceof TooLongError) return `the answer is longer than ${MAX_BYTES / 1024} KiB`;
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
    if (length > MAX_BYTES) throw new TooLongError();
  }
  return new Response(chunks.length === 0 ? null : Buffer.concat(chunks), { status });
};
