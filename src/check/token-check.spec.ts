import { describe, expect, it } from '@jest/globals';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { loadSettings } from '../config/settings.js';
import { checkTokens } from './token-check.js';

const SECRET = 'a secret of more than thirty-two characters';

const statusWith = async (jwt: NodeJS.ProcessEnv): Promise<string> => {
  const settings = loadSettings({
    APP_URL: 'https://api.example.com',
    DATABASE_URL: 'postgres://db/main',
    STORAGE_DRIVER: 'local',
    LOCAL_STORAGE_DIR: '/data',
    LOCAL_STORAGE_SECRET: SECRET,
    ...jwt,
  });
  return (await checkTokens(settings)).status;
};

const pem = ({ publicKey }: { publicKey: KeyObject }): string =>
  publicKey.export({ type: 'spki', format: 'pem' }).toString();

describe('checkTokens', () => {
  it('accepts a token signed with JWT_SECRET and the configured issuer', async () => {
    expect(await statusWith({ JWT_SECRET: SECRET })).toBe('ok');
    expect(await statusWith({ JWT_SECRET: SECRET, JWT_ISSUER: 'main' })).toBe('ok');
  });

  it.each([
    [2048, 'ok'],
    [1024, 'wrong'],
  ])('judges an RS256 key of %s bits as %s', async (modulusLength, status) => {
    const JWT_PUBLIC_KEY = pem(generateKeyPairSync('rsa', { modulusLength }));
    expect(await statusWith({ JWT_ALGORITHM: 'RS256', JWT_PUBLIC_KEY })).toBe(status);
  });

  it.each([
    ['P-256', 'ok'],
    ['P-384', 'wrong'],
  ])('judges an ES256 key of curve %s as %s', async (namedCurve, status) => {
    const JWT_PUBLIC_KEY = pem(generateKeyPairSync('ec', { namedCurve }));
    expect(await statusWith({ JWT_ALGORITHM: 'ES256', JWT_PUBLIC_KEY })).toBe(status);
  });
});
