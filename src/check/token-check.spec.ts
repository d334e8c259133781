import { describe, expect, it } from '@jest/globals';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { loadSettings } from '../config/settings.js';
import { checkTokens } from './token-check.js';

const SECRET = 'a secret of more than thirty-two characters';

const statusWith = (jwt: NodeJS.ProcessEnv): string =>
  checkTokens(
    loadSettings({
      APP_URL: 'https://api.example.com',
      DATABASE_URL: 'postgres://db/main',
      STORAGE_DRIVER: 'local',
      LOCAL_STORAGE_DIR: '/data',
      LOCAL_STORAGE_SECRET: SECRET,
      ...jwt,
    }),
  ).status;

const pem = ({ publicKey }: { publicKey: KeyObject }): string =>
  publicKey.export({ type: 'spki', format: 'pem' }).toString();

describe('checkTokens', () => {
  it('accepts a token that it signs with the secret, of the configured issuer', () => {
    expect(statusWith({ JWT_SECRET: SECRET })).toBe('ok');
    expect(statusWith({ JWT_SECRET: SECRET, JWT_ISSUER: 'main' })).toBe('ok');
  });

  it.each([
    [2048, 'ok'],
    [1024, 'wrong'],
  ])('RS256 with %s bits: %s', (modulusLength, status) => {
    const JWT_PUBLIC_KEY = pem(generateKeyPairSync('rsa', { modulusLength }));
    expect(statusWith({ JWT_ALGORITHM: 'RS256', JWT_PUBLIC_KEY })).toBe(status);
  });

  it.each([
    ['P-256', 'ok'],
    ['P-384', 'wrong'],
  ])('ES256 with %s: %s', (namedCurve, status) => {
    const JWT_PUBLIC_KEY = pem(generateKeyPairSync('ec', { namedCurve }));
    expect(statusWith({ JWT_ALGORITHM: 'ES256', JWT_PUBLIC_KEY })).toBe(status);
  });
});
