import { describe, expect, it } from '@jest/globals';
import { generateKeyPairSync } from 'node:crypto';
import { loadJwtSettings, loadSettings, SettingsError } from './settings.js';

const SECRET = 'a secret of more than thirty-two characters';

const COMPLETE: NodeJS.ProcessEnv = {
  APP_URL: 'https://api.example.com/',
  DATABASE_URL: 'postgres://user:password@db:5432/main',
  JWT_SECRET: SECRET,
  DO_SPACES_KEY: 'key',
  DO_SPACES_SECRET: 'secret',
  DO_SPACES_ENDPOINT: 'https://fra1.digitaloceanspaces.com',
  DO_SPACES_REGION: 'fra1',
  DO_SPACES_BUCKET: 'docavailable-storage',
  DO_SPACES_URL: 'https://docavailable-storage.fra1.digitaloceanspaces.com',
};

function problemsOf(environment: NodeJS.ProcessEnv): readonly string[] {
  try {
    loadSettings(environment);
    return [];
  } catch (error) {
    if (error instanceof SettingsError) return error.problems;
    throw error;
  }
}

const pem = (type: 'rsa' | 'ec'): string =>
  (type === 'rsa'
    ? generateKeyPairSync('rsa', { modulusLength: 2048 })
    : generateKeyPairSync('ec', { namedCurve: 'P-256' })
  ).publicKey
    .export({ type: 'spki', format: 'pem' })
    .toString();

describe('loadSettings', () => {
  it('fills in what is safe: production, no documentation page, no foreign origins, no trusted proxy', () => {
    expect(loadSettings(COMPLETE)).toMatchObject({
      environment: 'production',
      port: 3000,
      appUrl: 'https://api.example.com',
      swaggerEnabled: false,
      corsOrigins: [],
      trustProxy: 0,
      signedUrlExpiresSeconds: 3600,
      rateLimits: { signedUrlsPerMinute: 600, uploadsPerMinute: 60 },
      jwt: { algorithm: 'HS256', key: SECRET },
      storage: { driver: 's3', bucket: 'docavailable-storage' },
    });
  });

  it('shows the documentation page outside production, unless it is switched off', () => {
    expect(loadSettings({ ...COMPLETE, NODE_ENV: 'development' }).swaggerEnabled).toBe(true);
    expect(
      loadSettings({ ...COMPLETE, NODE_ENV: 'development', SWAGGER_ENABLED: 'false' }).swaggerEnabled,
    ).toBe(false);
    expect(loadSettings({ ...COMPLETE, SWAGGER_ENABLED: 'true' }).swaggerEnabled).toBe(true);
  });

  it.each(Object.keys(COMPLETE))(
    'names %s when it is missing or empty, and says what it should look like',
    (name) => {
      for (const value of [undefined, '']) {
        expect(problemsOf({ ...COMPLETE, [name]: value })).toEqual([
          expect.stringMatching(new RegExp(`^${name} is missing: must be .{10,}`)),
        ]);
      }
    },
  );

  it.each([
    ['PORT', '70000'],
    ['PORT', '3000x'],
    ['PORT', '-1'],
    ['APP_URL', 'api.internal'],
    ['APP_URL', 'ftp://api.example.com'],
    ['APP_URL', `https://${'long.'.repeat(40)}example.com`],
    ['DATABASE_URL', 'mysql://localhost/x'],
    ['JWT_SECRET', 'too short'],
    ['JWT_ALGORITHM', 'none'],
    ['JWT_PUBLIC_KEY', 'no key'],
    ['STORAGE_DRIVER', 'ftp'],
    ['DO_SPACES_URL', 'https://bucket.example.com/?x=1'],
    ['CORS_ORIGINS', 'https://app.example.com/path'],
    ['CORS_ORIGINS', '*'],
    ['TRUST_PROXY', '$(id)'],
    ['SIGNED_URL_EXPIRES_SECONDS', '3601'],
    ['SIGNED_URL_EXPIRES_SECONDS', '0'],
    ['SWAGGER_ENABLED', 'yes'],
    ['NODE_ENV', 'staging'],
  ])('refuses %s=%s in one line that does not repeat the value', (name, value) => {
    const problems = problemsOf({ ...COMPLETE, [name]: value });
    expect(problems).toEqual([expect.stringMatching(new RegExp(`^${name} must be `))]);
    if (value.length > 3) expect(problems[0]).not.toContain(value);
  });

  it('asks for the settings of the chosen driver only', () => {
    const local = {
      APP_URL: COMPLETE.APP_URL,
      DATABASE_URL: COMPLETE.DATABASE_URL,
      JWT_SECRET: SECRET,
      STORAGE_DRIVER: 'local',
    };
    expect(problemsOf(local).map((line) => line.split(' ')[0])).toEqual([
      'LOCAL_STORAGE_DIR',
      'LOCAL_STORAGE_SECRET',
    ]);
    expect(
      loadSettings({ ...local, LOCAL_STORAGE_DIR: '/data', LOCAL_STORAGE_SECRET: SECRET }).storage,
    ).toEqual({
      driver: 'local',
      directory: '/data',
      secret: SECRET,
    });
  });

  it('pins the algorithm to a key of its kind', () => {
    const asymmetric = (algorithm: string, key: string): readonly string[] =>
      problemsOf({ ...COMPLETE, JWT_SECRET: '', JWT_ALGORITHM: algorithm, JWT_PUBLIC_KEY: key });
    expect(asymmetric('RS256', pem('rsa'))).toEqual([]);
    expect(asymmetric('ES256', pem('ec').replaceAll('\n', '\\n'))).toEqual([]);
    expect(asymmetric('RS256', pem('ec'))).toEqual([
      expect.stringMatching(/^JWT_PUBLIC_KEY must be an RSA key/),
    ]);
    expect(asymmetric('ES256', pem('rsa'))).toEqual([
      expect.stringMatching(/^JWT_PUBLIC_KEY must be an EC key/),
    ]);
    expect(asymmetric('RS256', '')).toEqual([expect.stringMatching(/^JWT_PUBLIC_KEY is missing/)]);
  });

  it('reads lists and proxies', () => {
    const settings = loadSettings({
      ...COMPLETE,
      CORS_ORIGINS: 'https://a.example.com, http://localhost:8081',
      TRUST_PROXY: '10.0.0.0/8, loopback',
    });
    expect(settings.corsOrigins).toEqual(['https://a.example.com', 'http://localhost:8081']);
    expect(settings.trustProxy).toBe('10.0.0.0/8, loopback');
    expect(loadSettings({ ...COMPLETE, TRUST_PROXY: '2' }).trustProxy).toBe(2);
  });
});

describe('loadJwtSettings', () => {
  it('needs nothing but what concerns tokens', () => {
    expect(loadJwtSettings({ JWT_SECRET: SECRET, JWT_ISSUER: 'x' })).toEqual({
      algorithm: 'HS256',
      key: SECRET,
      issuer: 'x',
    });
    expect(() => loadJwtSettings({})).toThrow(/^JWT_SECRET is missing/);
  });
});
