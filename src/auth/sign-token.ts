import jwt from 'jsonwebtoken';
import { randomUUID } from 'node:crypto';
import type { JwtSettings } from '../config/settings.js';

/**
 * A bearer token such as the main application issues, for development: HS256 with the shared secret.
 *
 * @param userId becomes `sub`
 * @param expiresInSeconds from now
 */
export function signToken(userId: number, { key, issuer }: JwtSettings, expiresInSeconds: number): string {
  return jwt.sign({}, key, {
    algorithm: 'HS256',
    subject: String(userId),
    jwtid: randomUUID(),
    issuer: issuer ?? 'chat-image-store',
    notBefore: 0,
    expiresIn: expiresInSeconds,
  });
}
