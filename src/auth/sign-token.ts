import jwt from 'jsonwebtoken';
import { randomUUID } from 'node:crypto';
import type { JwtSettings } from '../config/settings.js';

/**
 * Signs a bearer token like a token of the main application, for development. HS256 with the shared secret, and all claims
 * that the settings require.
 *
 * @param userId the claim `sub`
 * @param expiresInSeconds from now
 * @throws Error when the settings contain no signing key
 */
export function signToken(
  userId: number,
  { key, issuer, audience, types, requiredClaims = [] }: JwtSettings,
  expiresInSeconds: number,
): string {
  if (key === undefined) throw new Error('The settings name no key to sign with.');
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    iss: 'chat-image-store',
    ...Object.fromEntries(requiredClaims.map(({ name, value = 'development' }) => [name, value])),
    ...(issuer === undefined ? {} : { iss: issuer }),
    ...(audience === undefined ? {} : { aud: audience }),
    sub: String(userId),
    jti: randomUUID(),
    iat: now,
    nbf: now,
    exp: now + expiresInSeconds,
  };
  return jwt.sign(claims, key, { header: { alg: 'HS256', typ: types?.[0] ?? 'JWT' } });
}
