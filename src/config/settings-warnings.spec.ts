import { describe, expect, it } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { loadSettings } from './settings.js';
import { entropyBits, settingsWarnings } from './settings-warnings.js';

const random = (): string => randomBytes(32).toString('hex');

const PRODUCTION: NodeJS.ProcessEnv = {
  APP_URL: 'https://api.example.com',
  DATABASE_URL: 'postgres://db/main',
  JWT_SECRET: random(),
  DO_SPACES_KEY: 'key',
  DO_SPACES_SECRET: 'secret',
  DO_SPACES_ENDPOINT: 'https://fra1.digitaloceanspaces.com',
  DO_SPACES_REGION: 'fra1',
  DO_SPACES_BUCKET: 'pictures',
  DO_SPACES_URL: 'https://pictures.fra1.digitaloceanspaces.com',
};

const LOCAL = { STORAGE_DRIVER: 'local', LOCAL_STORAGE_DIR: '/data', LOCAL_STORAGE_SECRET: random() };

const warningsOf = (over: NodeJS.ProcessEnv): readonly string[] =>
  settingsWarnings(loadSettings({ ...PRODUCTION, ...over })).map(({ message }) => message);

describe('settingsWarnings', () => {
  it('gives no warning for good production settings, nor outside production', () => {
    expect(warningsOf({})).toEqual([]);
    expect(warningsOf(LOCAL)).toEqual([]);
    expect(
      warningsOf({ NODE_ENV: 'development', APP_URL: 'http://localhost:3000', JWT_SECRET: 'x'.repeat(32) }),
    ).toEqual([]);
  });

  it.each([
    ['APP_URL', 'http://api.example.com'],
    ['APP_URL', 'HTTP://api.example.com'],
    ['DO_SPACES_ENDPOINT', 'http://minio:9000'],
    ['DO_SPACES_URL', 'http://pictures.example.com'],
  ])('warns of %s=%s', (name, url) => {
    expect(warningsOf({ [name]: url })).toEqual([
      `${name} is no https address: pictures can be read on their way`,
    ]);
  });

  it.each([
    ['JWT_SECRET', 'and set it in the main application too'],
    ['JWT_SECRET_PREVIOUS', 'take it away'],
    ['LOCAL_STORAGE_SECRET', 'openssl rand -hex 32'],
  ])('warns of a guessable %s, without its value', (name, advice) => {
    const secret = 'changeme-changeme-changeme-changeme';
    const warnings = warningsOf({ ...LOCAL, [name]: secret });
    expect(warnings).toEqual([expect.stringMatching(new RegExp(`^${name} can be guessed: .*${advice}`))]);
    expect(warnings.join()).not.toContain(secret);
  });

  it.each([
    'a'.repeat(64),
    'ab'.repeat(32),
    'secret'.repeat(10),
    '0123456789abcdef'.repeat(4),
    '12345678901234567890123456789012',
    'abcdefghijklmnopqrstuvwxyz0123456789',
    'my-very-secret-signing-key-for-production',
    'This-Is-A-Very-Long-SECRET-Key-Change-Me',
    'your-256-bit-secret-your-256-bit-secret',
  ])('counts %s as a guessable secret', (secret) => {
    expect(warningsOf({ JWT_SECRET: secret })).toHaveLength(1);
  });

  it.each([
    ['openssl rand -hex 32', random],
    ['openssl rand -base64 32', () => randomBytes(32).toString('base64')],
    ['openssl rand -hex 16', () => randomBytes(16).toString('hex')],
    [
      '64 letters and digits',
      () => randomBytes(64).toString('base64url').replaceAll(/[-_]/g, '').slice(0, 64),
    ],
  ])('counts the output of %s as a good secret', (_, make) => {
    const least = Math.min(...Array.from({ length: 2000 }, () => entropyBits(make())));
    expect(least).toBeGreaterThan(72);
  });
});
