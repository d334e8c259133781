import { describe, expect, it } from '@jest/globals';
import express from 'express';
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
  it('has safe defaults: production, no Swagger page, no CORS origins, no trusted proxy', () => {
    expect(loadSettings(COMPLETE)).toMatchObject({
      environment: 'production',
      port: 3000,
      appUrl: 'https://api.example.com',
      swaggerEnabled: false,
      demoEnabled: false,
      corsOrigins: [],
      trustProxy: 0,
      signedUrlExpiresSeconds: 3600,
      rateLimits: { signedUrlsPerMinute: 600, uploadsPerMinute: 60 },
      jwt: { algorithm: 'HS256', key: SECRET },
      storage: { driver: 's3', bucket: 'docavailable-storage' },
    });
  });

  it('has no metrics without METRICS_PORT, and then on 127.0.0.1 only', () => {
    expect(loadSettings(COMPLETE).metrics).toBeUndefined();
    const environment = { ...COMPLETE, METRICS_PORT: '9464' };
    expect(loadSettings(environment).metrics).toEqual({ port: 9464, host: '127.0.0.1' });
    expect(loadSettings({ ...environment, METRICS_HOST: '::' }).metrics?.host).toBe('::');
    expect(problemsOf({ ...environment, METRICS_HOST: 'localhost' })).toHaveLength(1);
    expect(problemsOf({ ...environment, PORT: '9464' })).toEqual([
      'METRICS_PORT must be another port than PORT: the metrics are not public',
    ]);
  });

  it('has a SHUTDOWN_DELAY_MS of 5 s in production, and 0 elsewhere', () => {
    expect(loadSettings(COMPLETE).shutdownDelayMs).toBe(5000);
    expect(loadSettings({ ...COMPLETE, NODE_ENV: 'development' }).shutdownDelayMs).toBe(0);
    expect(loadSettings({ ...COMPLETE, SHUTDOWN_DELAY_MS: '0' }).shutdownDelayMs).toBe(0);
  });

  it('has an UPLOAD_DEDUPE_SECONDS longer than three tries of 60 s each', () => {
    expect(loadSettings(COMPLETE).uploads.dedupeSeconds).toBeGreaterThan(3 * 60);
  });

  it('refuses the demo in production, and where it can not sign tokens', () => {
    expect(problemsOf({ ...COMPLETE, DEMO_ENABLED: 'true' })).toEqual([
      'DEMO_ENABLED must not be true in production: the demo gives everybody the tokens of its users',
    ]);
    const development = { ...COMPLETE, NODE_ENV: 'development', DEMO_ENABLED: 'true' };
    expect(loadSettings(development).demoEnabled).toBe(true);
    expect(
      problemsOf({
        ...development,
        JWT_ALGORITHM: 'ES256',
        JWT_SECRET: undefined,
        JWT_PUBLIC_KEY: pem('ec'),
      }),
    ).toEqual([
      'DEMO_ENABLED must not be true without JWT_ALGORITHM=HS256: the demo signs the tokens of its users',
    ]);
  });

  it('has no Redis without REDIS_URL, and refuses REDIS_CA_CERT without TLS', () => {
    expect(loadSettings(COMPLETE).redis).toBeUndefined();
    const REDIS_CA_CERT = 'test/tls/ca.pem';
    expect(
      loadSettings({ ...COMPLETE, REDIS_URL: 'rediss://user:p%40ss@[::1]:6380/1', REDIS_CA_CERT }).redis,
    ).toEqual({
      url: 'rediss://user:p%40ss@[::1]:6380/1',
      caCert: expect.stringContaining('BEGIN CERTIFICATE'),
      timeoutMs: 250,
    });
    expect(
      problemsOf({ ...COMPLETE, REDIS_URL: 'rediss://localhost', REDIS_CA_CERT: 'no certificate' }),
    ).toEqual([expect.stringMatching(/^REDIS_CA_CERT must be a CA certificate/)]);
    expect(problemsOf({ ...COMPLETE, REDIS_URL: 'redis://localhost', REDIS_CA_CERT })).toEqual([
      'REDIS_CA_CERT must not be set unless REDIS_URL begins with rediss://: without TLS nothing is verified',
    ]);
  });

  it('enables the Swagger page outside production, unless SWAGGER_ENABLED=false', () => {
    expect(loadSettings({ ...COMPLETE, NODE_ENV: 'development' }).swaggerEnabled).toBe(true);
    expect(
      loadSettings({ ...COMPLETE, NODE_ENV: 'development', SWAGGER_ENABLED: 'false' }).swaggerEnabled,
    ).toBe(false);
    expect(loadSettings({ ...COMPLETE, SWAGGER_ENABLED: 'true' }).swaggerEnabled).toBe(true);
  });

  it.each(Object.keys(COMPLETE))('names %s when it is missing or empty, and describes its form', (name) => {
    for (const value of [undefined, '']) {
      expect(problemsOf({ ...COMPLETE, [name]: value })).toEqual([
        expect.stringMatching(new RegExp(`^${name} is missing: must be .{10,}`)),
      ]);
    }
  });

  it.each([
    ['PORT', '70000'],
    ['PORT', '3000x'],
    ['PORT', '-1'],
    ['APP_URL', 'api.internal'],
    ['APP_URL', 'ftp://api.example.com'],
    ['APP_URL', `https://${'long.'.repeat(40)}example.com`],
    ['DATABASE_URL', 'mysql://localhost/x'],
    ['REDIS_URL', 'redis.example.com:6379'],
    ['REDIS_URL', 'https://redis.example.com'],
    ['REDIS_URL', 'redis://redis.example.com/cache'],
    ['REDIS_URL', 'redis://redis.example.com/0?family=6'],
    ['REDIS_TIMEOUT_MS', '0'],
    ['JWT_SECRET', 'too short'],
    ['JWT_ALGORITHM', 'none'],
    ['JWT_PUBLIC_KEY', 'no key'],
    ['STORAGE_DRIVER', 'ftp'],
    ['DO_SPACES_URL', 'https://bucket.example.com/?x=1'],
    ['CORS_ORIGINS', 'https://app.example.com/path'],
    ['CORS_ORIGINS', '*'],
    ['TRUST_PROXY', '$(id)'],
    ['TRUST_PROXY', 'true'],
    ['TRUST_PROXY', 'false'],
    ['TRUST_PROXY', 'all'],
    ['TRUST_PROXY', 'nginx.internal'],
    ['TRUST_PROXY', '-1'],
    ['TRUST_PROXY', '1.5'],
    ['TRUST_PROXY', '1,2'],
    ['TRUST_PROXY', '10.0.0.1,'],
    ['TRUST_PROXY', '10.0.0.256'],
    ['TRUST_PROXY', '10.1.2'],
    ['TRUST_PROXY', '10.0.0.0/33'],
    ['TRUST_PROXY', '10.0.0.0/0'],
    ['TRUST_PROXY', '10.1.0.0/'],
    ['TRUST_PROXY', '10.0.0.0/255.0.255.0'],
    ['TRUST_PROXY', '10.0.0.0/8/8'],
    ['TRUST_PROXY', 'fe80::1/129'],
    ['TRUST_PROXY', 'fe80:::1'],
    ['TRUST_PROXY', 'loopback 10.0.0.1'],
    ['JWT_SECRET_PREVIOUS', 'too short'],
    ['JWT_PUBLIC_KEY', `${pem('rsa')}${pem('rsa')}`],
    ['JWT_JWKS_CACHE_SECONDS', '5'],
    ['JWT_TYPES', 'at+jwt,,'],
    ['JWT_TYPES', 'at jwt'],
    ['JWT_REQUIRED_CLAIMS', 'prv,,iss'],
    ['JWT_REQUIRED_CLAIMS', 'prv='],
    ['JWT_REQUIRED_CLAIMS', '=doctor'],
    ['USERS_ACTIVE_COLUMN', 'is active'],
    ['USERS_ACTIVE_COLUMN', 'users.is_active'],
    ['USERS_ACTIVE_COLUMN', 'x" OR true --'],
    ['USERS_ACTIVE_COLUMN', 'a'.repeat(64)],
    ['SIGNED_URL_EXPIRES_SECONDS', '3601'],
    ['SIGNED_URL_EXPIRES_SECONDS', '0'],
    ['SWAGGER_ENABLED', 'yes'],
    ['NODE_ENV', 'staging'],
  ])('refuses %s=%s in one line without the value', (name, value) => {
    const problems = problemsOf({ ...COMPLETE, [name]: value });
    expect(problems).toEqual([expect.stringMatching(new RegExp(`^${name} must be `))]);
    if (value.length > 3) expect(problems[0]).not.toContain(value);
  });

  it.each([
    ['https://docavailable-storage.fra1.digitaloceanspaces.com', 'https://fra1.digitaloceanspaces.com'],
    ['https://docavailable-storage.fra1.digitaloceanspaces.com/', 'https://fra1.digitaloceanspaces.com'],
    ['HTTPS://DocAvailable-Storage.FRA1.DigitalOceanSpaces.com', 'https://fra1.digitaloceanspaces.com'],
    ['https://another-bucket.nyc3.digitaloceanspaces.com', 'https://nyc3.digitaloceanspaces.com'],
    ['https://docavailable-storage.fra1.cdn.digitaloceanspaces.com', 'https://fra1.digitaloceanspaces.com'],
    ['https://fra1.digitaloceanspaces.com/docavailable-storage', 'https://fra1.digitaloceanspaces.com'],
    ['https://fra1.digitaloceanspaces.com/Docavailable-Storage//', 'https://fra1.digitaloceanspaces.com'],
    ['https://docavailable-storage.s3.eu-west-1.amazonaws.com', 'https://s3.eu-west-1.amazonaws.com'],
    ['https://docavailable-storage.fsn1.your-objectstorage.com', 'https://fsn1.your-objectstorage.com'],
    ['http://docavailable-storage.localhost:9000', 'http://localhost:9000'],
    ['http://minio:9000/docavailable-storage', 'http://minio:9000'],
    ['http://minio:9000/s3/docavailable-storage/', 'http://minio:9000/s3'],
  ])('refuses the endpoint %s, which names the bucket, and suggests %s', (endpoint, right) => {
    expect(problemsOf({ ...COMPLETE, DO_SPACES_ENDPOINT: endpoint })).toEqual([
      `DO_SPACES_ENDPOINT must be the address without the bucket: ${right}`,
    ]);
  });

  it.each([
    ['https://docavailable-storage.fra1.cdn.digitaloceanspaces.com', "not its CDN's"],
    ['https://DOCAVAILABLE-STORAGE.fra1.CDN.digitaloceanspaces.com/', "not its CDN's"],
    ['https://fra1.digitaloceanspaces.com', 'must name the bucket'],
  ])('refuses the public address %s, and suggests the right address', (publicUrl, mistake) => {
    expect(problemsOf({ ...COMPLETE, DO_SPACES_URL: publicUrl })).toEqual([
      expect.stringMatching(
        new RegExp(
          `^DO_SPACES_URL .*${mistake}: https://docavailable-storage\\.fra1\\.digitaloceanspaces\\.com$`,
        ),
      ),
    ]);
  });

  it('suggests an address with the bucket in its path for a CDN address', () => {
    const DO_SPACES_URL = 'https://fra1.cdn.digitaloceanspaces.com/docavailable-storage';
    expect(problemsOf({ ...COMPLETE, DO_SPACES_URL })).toEqual([
      "DO_SPACES_URL must be the bucket's own address, not its CDN's: https://fra1.digitaloceanspaces.com/docavailable-storage",
    ]);
  });

  it('suggests the address of the bucket when the public address is the endpoint', () => {
    const address = { DO_SPACES_ENDPOINT: 'http://localhost:9000', DO_SPACES_URL: 'http://localhost:9000/' };
    expect(problemsOf({ ...COMPLETE, ...address })).toEqual([
      'DO_SPACES_URL must name the bucket: http://localhost:9000/docavailable-storage',
    ]);
  });

  it('refuses only the endpoint when endpoint and public address both name the bucket', () => {
    const address = 'http://localhost:9000/docavailable-storage';
    expect(problemsOf({ ...COMPLETE, DO_SPACES_ENDPOINT: address, DO_SPACES_URL: address })).toEqual([
      'DO_SPACES_ENDPOINT must be the address without the bucket: http://localhost:9000',
    ]);
  });

  it.each([
    ['docavailable-storage', 'http://minio:9000', 'http://localhost:9000/docavailable-storage'],
    ['docavailable-storage', 'https://fra1.digitaloceanspaces.com/', COMPLETE.DO_SPACES_URL],
    [
      'docavailable-storage',
      'https://fra1.digitaloceanspaces.com',
      'https://fra1.digitaloceanspaces.com/docavailable-storage',
    ],
    ['docavailable-storage', 'https://s3.eu-west-1.amazonaws.com', 'https://pictures.example.com'],
    ['docavailable-storage', 'https://example.com/docavailable-storage/s3', 'https://pictures.example.com'],
    ['docavailable-storage', 'https://docavailable-storage-s3.example.com', 'https://pictures.example.com'],
    // The host of the storage may begin with the bucket's name.
    ['minio', 'http://minio:9000', 'http://localhost:9000/minio'],
    ['storage', 'https://storage.example.com', 'https://pictures.example.com'],
    ['storage', 'https://storage.clinic.co.mw', 'https://storage.clinic.co.mw/storage'],
    ['storage', 'https://storage.googleapis.com', 'https://storage.storage.googleapis.com'],
    ['fra1', 'https://fra1.digitaloceanspaces.com', 'https://fra1.fra1.digitaloceanspaces.com'],
  ])(
    'accepts the bucket %s with the endpoint %s and the public address %s',
    (bucket, endpoint, publicUrl) => {
      expect(
        problemsOf({
          ...COMPLETE,
          DO_SPACES_BUCKET: bucket,
          DO_SPACES_ENDPOINT: endpoint,
          DO_SPACES_URL: publicUrl,
        }),
      ).toEqual([]);
    },
  );

  it('lists a wrong bucket address together with all other mistakes', () => {
    const problems = problemsOf({
      ...COMPLETE,
      PORT: 'three',
      DO_SPACES_KEY: '',
      DO_SPACES_ENDPOINT: 'https://docavailable-storage.fra1.digitaloceanspaces.com',
    });
    expect(problems.map((line) => line.split(' ')[0]).sort()).toEqual([
      'DO_SPACES_ENDPOINT',
      'DO_SPACES_KEY',
      'PORT',
    ]);
  });

  it('requires only the settings of the chosen storage driver', () => {
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

  it('requires a key that fits JWT_ALGORITHM', () => {
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

  it('requires a fitting JWT_PUBLIC_KEY_PREVIOUS, and JWT_JWKS_URL without other keys', () => {
    const with256 = (over: NodeJS.ProcessEnv): readonly string[] =>
      problemsOf({ ...COMPLETE, JWT_SECRET: '', JWT_ALGORITHM: 'RS256', ...over });
    const JWT_PUBLIC_KEY = pem('rsa');
    const JWT_JWKS_URL = 'https://auth.example.com/jwks.json?p=1';
    expect(with256({ JWT_PUBLIC_KEY, JWT_PUBLIC_KEY_PREVIOUS: pem('rsa') })).toEqual([]);
    expect(with256({ JWT_PUBLIC_KEY, JWT_PUBLIC_KEY_PREVIOUS: pem('ec') })).toEqual([
      expect.stringMatching(/^JWT_PUBLIC_KEY_PREVIOUS must be an RSA key/),
    ]);
    expect(with256({ JWT_PUBLIC_KEY_PREVIOUS: JWT_PUBLIC_KEY })).toEqual([
      expect.stringMatching(/^JWT_PUBLIC_KEY is missing: .*RS256, unless JWT_JWKS_URL is set/),
    ]);
    expect(with256({ JWT_JWKS_URL })).toEqual([]);
    for (const url of [
      'auth.example.com/jwks.json',
      'ftp://auth.example.com',
      'https://me:x@auth.example.com',
    ])
      expect(with256({ JWT_JWKS_URL: url })).toEqual([
        expect.stringMatching(/^JWT_JWKS_URL must be an absolute/),
      ]);
    expect(with256({ JWT_JWKS_URL, JWT_PUBLIC_KEY })).toEqual([
      expect.stringMatching(/^JWT_JWKS_URL must not be set together with JWT_PUBLIC_KEY/),
    ]);
    expect(with256({ JWT_JWKS_URL, JWT_PUBLIC_KEY_PREVIOUS: JWT_PUBLIC_KEY })).toEqual([
      expect.stringMatching(/^JWT_PUBLIC_KEY_PREVIOUS must not be set together with JWT_JWKS_URL/),
    ]);
    expect(problemsOf({ ...COMPLETE, JWT_JWKS_URL })).toEqual([
      expect.stringMatching(/^JWT_JWKS_URL must not be set with JWT_ALGORITHM=HS256/),
    ]);
  });

  it('accepts a plain http JWT_JWKS_URL only outside production', () => {
    const open = {
      ...COMPLETE,
      JWT_SECRET: '',
      JWT_ALGORITHM: 'ES256',
      JWT_JWKS_URL: 'HTTP://auth.internal/jwks',
    };
    expect(problemsOf(open)).toEqual([expect.stringMatching(/^JWT_JWKS_URL must be an https URL/)]);
    expect(problemsOf({ ...open, NODE_ENV: 'development' })).toEqual([]);
  });

  it('reads the settings for tokens', () => {
    const { jwt, usersActiveColumn } = loadSettings({
      ...COMPLETE,
      JWT_SECRET_PREVIOUS: `another ${SECRET}`,
      JWT_AUDIENCE: 'chat',
      JWT_TYPES: 'JWT, application/at+jwt',
      JWT_REQUIRED_CLAIMS: 'prv=23bd5c8949f6=, role',
      USERS_ACTIVE_COLUMN: 'is_active',
    });
    expect(jwt).toEqual({
      algorithm: 'HS256',
      key: SECRET,
      previousKey: `another ${SECRET}`,
      issuer: undefined,
      audience: 'chat',
      types: ['JWT', 'application/at+jwt'],
      requiredClaims: [
        { name: 'prv', value: '23bd5c8949f6=' },
        { name: 'role', value: undefined },
      ],
    });
    expect(usersActiveColumn).toBe('is_active');
  });

  it('reads CORS_ORIGINS and TRUST_PROXY', () => {
    const settings = loadSettings({
      ...COMPLETE,
      CORS_ORIGINS: 'https://a.example.com, http://localhost:8081',
      TRUST_PROXY: '10.0.0.0/8, loopback',
    });
    expect(settings.corsOrigins).toEqual(['https://a.example.com', 'http://localhost:8081']);
    expect(settings.trustProxy).toBe('10.0.0.0/8, loopback');
    expect(loadSettings({ ...COMPLETE, TRUST_PROXY: '2' }).trustProxy).toBe(2);
  });

  it.each([
    '0',
    '12',
    'loopback',
    'linklocal, uniquelocal',
    '10.0.0.1',
    '10.0.0.0/8,192.168.1.1',
    '10.0.0.0/255.0.0.0',
    '::1',
    '::ffff:10.0.0.1',
    'fd00::/8,FE80::1',
  ])('accepts TRUST_PROXY=%s, as Express does', (TRUST_PROXY) => {
    const { trustProxy } = loadSettings({ ...COMPLETE, TRUST_PROXY });
    expect(() => express().set('trust proxy', trustProxy)).not.toThrow();
  });
});

describe('loadJwtSettings', () => {
  it('needs only the settings for tokens', () => {
    expect(loadJwtSettings({ JWT_SECRET: SECRET, JWT_ISSUER: 'x' })).toEqual({
      algorithm: 'HS256',
      key: SECRET,
      issuer: 'x',
    });
    expect(() => loadJwtSettings({})).toThrow(/^JWT_SECRET is missing/);
  });
});
