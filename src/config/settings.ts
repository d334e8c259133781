import { createPublicKey, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { isIP } from 'node:net';
import proxyAddr from 'proxy-addr';
import { z } from 'zod';
import { bucketUrl, endpointWithoutBucket } from './bucket-address.js';

/** DI token of the validated {@link Settings}. */
export const SETTINGS = Symbol('Settings');

/** The longest `APP_URL` with which every `media_url` still fits the 255 characters of an old client's column. */
const APP_URL_MAX_LENGTH = 170;

/** A load balancer that checks readiness every two seconds sees the process not ready at least twice. */
const SHUTDOWN_DELAY_IN_PRODUCTION_MS = 5000;

const optionalWholeNumber = (min: number, max: number, example: number) =>
  z
    .string()
    .regex(/^\d+$/, `must be a whole number from ${min} to ${max}, e.g. ${example}`)
    .transform(Number)
    .refine(
      (value) => value >= min && value <= max,
      `must be a whole number from ${min} to ${max}, e.g. ${example}`,
    )
    .optional();

const wholeNumber = (min: number, max: number, fallback: number) =>
  optionalWholeNumber(min, max, fallback).default(fallback);

/** The most that UPLOAD_MAX_FILE_MIB may allow. */
export const LARGEST_FILE_MIB = 25;

/** Default of DECODE_PROCESSES: one per processor, at least two so that no user occupies all, at most four. */
const DEFAULT_DECODE_PROCESSES = Math.min(Math.max(availableParallelism(), 2), 4);

const httpUrl = (example: string) =>
  z
    .string()
    .refine(isHttpUrl, `must be an absolute http(s) URL without query, e.g. ${example}`)
    .transform((value) => value.replace(/\/+$/, ''));

const text = (description: string) => z.string().min(1, `must be ${description}`);

const jwtSecret = z
  .string()
  .min(32, 'must be at least 32 characters: the secret that signs the tokens')
  .optional();

const jwtPublicKey = z
  .string()
  .transform((value) => value.replaceAll('\\n', '\n'))
  .refine(isPublicKey, 'must be one public key in PEM form (line breaks may be written as \\n)')
  .optional();

const caCertificate = z
  .string()
  .transform(readPem)
  .refine(
    isCertificate,
    'must be a CA certificate in PEM form (line breaks may be written as \\n), or a path to one',
  );

/**
 * Every environment variable that the service reads. Values are the raw strings of the environment; an empty string counts
 * as not set. A test compares `.env.example` with these keys in both directions.
 */
export const environmentSchema = z.object({
  NODE_ENV: z
    .enum(['production', 'development', 'test'], 'must be production, development or test')
    .default('production'),
  PORT: wholeNumber(0, 65_535, 3000),
  APP_URL: httpUrl('https://api.example.com').refine(
    (value) => value.length <= APP_URL_MAX_LENGTH,
    `must be at most ${APP_URL_MAX_LENGTH} characters, so that a media_url fits 255`,
  ),
  LOG_LEVEL: z
    .enum(
      ['fatal', 'error', 'warn', 'info', 'debug', 'silent'],
      'must be fatal, error, warn, info, debug or silent',
    )
    .default('info'),
  METRICS_PORT: optionalWholeNumber(1, 65_535, 9464),
  METRICS_HOST: z
    .string()
    .refine((value) => isIP(value) !== 0, 'must be an IP address of this machine, e.g. 127.0.0.1 or 0.0.0.0')
    .default('127.0.0.1'),
  SHUTDOWN_DELAY_MS: optionalWholeNumber(0, 120_000, 5000),
  SHUTDOWN_TIMEOUT_MS: wholeNumber(0, 600_000, 25_000),
  SWAGGER_ENABLED: z.enum(['true', 'false'], 'must be true or false').optional(),
  DEMO_ENABLED: z
    .enum(['true', 'false'], 'must be true or false')
    .transform((value) => value === 'true')
    .default(false),
  CORS_ORIGINS: z
    .string()
    .transform(listOf)
    .refine(
      (origins) => origins.every((origin) => isHttpUrl(origin) && new URL(origin).origin === origin),
      'must be comma-separated origins, e.g. https://app.example.com,https://admin.example.com',
    )
    .default([]),
  TRUST_PROXY: z
    .string()
    .refine(
      isTrustProxy,
      'must be a number of proxies, e.g. 1, or comma-separated addresses of proxies, e.g. loopback,10.0.0.0/8',
    )
    .transform((value) => (/^\d+$/.test(value) ? Number(value) : value))
    .default(0),

  DATABASE_URL: z
    .string()
    .refine(isPostgresUrl, 'must be a PostgreSQL URL, e.g. postgres://user:password@host:5432/database'),
  DATABASE_DIRECT_URL: z
    .string()
    .refine(isPostgresUrl, 'must be a PostgreSQL URL, e.g. postgres://user:password@host:5432/database')
    .optional(),
  DATABASE_POOLER: z.enum(['none', 'transaction'], 'must be none or transaction').default('none'),
  DATABASE_CA_CERT: caCertificate.optional(),
  DATABASE_POOL_SIZE: wholeNumber(3, 200, 10),
  DATABASE_CONNECT_TIMEOUT_MS: wholeNumber(1, 60_000, 3000),
  DATABASE_STATEMENT_TIMEOUT_MS: wholeNumber(1, 600_000, 5000),

  REDIS_URL: z
    .string()
    .refine(isRedisUrl, 'must be a Redis URL, e.g. rediss://user:password@host:6379/0')
    .optional(),
  REDIS_CA_CERT: caCertificate.optional(),
  REDIS_TIMEOUT_MS: wholeNumber(1, 10_000, 250),

  JWT_ALGORITHM: z.enum(['HS256', 'RS256', 'ES256'], 'must be HS256, RS256 or ES256').default('HS256'),
  JWT_SECRET: jwtSecret,
  JWT_SECRET_PREVIOUS: jwtSecret,
  JWT_PUBLIC_KEY: jwtPublicKey,
  JWT_PUBLIC_KEY_PREVIOUS: jwtPublicKey,
  JWT_JWKS_URL: z
    .string()
    .refine(isKeysUrl, 'must be an absolute http(s) URL, e.g. https://auth.example.com/.well-known/jwks.json')
    .optional(),
  JWT_JWKS_CACHE_SECONDS: wholeNumber(60, 86_400, 300),
  JWT_ISSUER: z.string().optional(),
  JWT_AUDIENCE: z.string().optional(),
  JWT_TYPES: z
    .string()
    .transform(listOf)
    .refine(
      (types) => types.every((type) => /^[\w!#$&^.+/-]+$/.test(type)),
      'must be comma-separated values of the header typ, e.g. JWT,at+jwt',
    )
    .optional(),
  JWT_REQUIRED_CLAIMS: z
    .string()
    .transform(listOf)
    .refine(
      (claims) => claims.every((claim) => /^[^\s=]+(=.+)?$/.test(claim)),
      'must be comma-separated names of claims, each alone or with its value, e.g. prv,role=user',
    )
    .transform((claims) => claims.map(toRequiredClaim))
    .optional(),
  USERS_ACTIVE_COLUMN: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z\d_]{0,62}$/, 'must be the name of a column of users, e.g. is_active')
    .optional(),
  REVOCATION_CACHE_SECONDS: wholeNumber(0, 3600, 30),

  STORAGE_DRIVER: z.enum(['s3', 'local'], 'must be s3 or local').default('s3'),
  DO_SPACES_KEY: text('the access key of the bucket').optional(),
  DO_SPACES_SECRET: text('the secret key of the bucket').optional(),
  DO_SPACES_ENDPOINT: httpUrl('https://fra1.digitaloceanspaces.com').optional(),
  DO_SPACES_REGION: text('the region of the bucket, e.g. fra1').optional(),
  DO_SPACES_BUCKET: text('the name of the bucket, e.g. docavailable-storage').optional(),
  DO_SPACES_URL: httpUrl('https://docavailable-storage.fra1.digitaloceanspaces.com').optional(),
  DO_SPACES_OBJECT_ACL: z.enum(['private', 'none'], 'must be private or none').default('private'),
  STORAGE_CONNECT_TIMEOUT_MS: wholeNumber(1, 60_000, 2000),
  STORAGE_REQUEST_TIMEOUT_MS: wholeNumber(1, 600_000, 10_000),
  STORAGE_MAX_ATTEMPTS: wholeNumber(1, 10, 3),
  LOCAL_STORAGE_DIR: text('the folder that holds the pictures').optional(),
  LOCAL_STORAGE_SECRET: z
    .string()
    .min(32, 'must be at least 32 characters: the secret that signs the URLs of the local driver')
    .optional(),

  TEXT_SESSIONS: z
    .enum(['true', 'false'], 'must be true or false')
    .transform((value) => value === 'true')
    .default(false),

  THUMBNAILS: z
    .enum(['true', 'false'], 'must be true or false')
    .transform((value) => value === 'true')
    .default(true),

  MIGRATION_PHASE: z
    .enum(['1', '2', '3', '4'], 'must be 1, 2, 3 or 4')
    .transform((phase) => Number(phase) as 1 | 2 | 3 | 4)
    .default(4),
  LEGACY_MEDIA_URL: httpUrl('https://docavailable-storage.fra1.digitaloceanspaces.com').optional(),
  LINK_URL_EXPIRES_SECONDS: wholeNumber(1, 3600, 300),
  MIGRATE_SOURCE_KEY: text('the access key of the bucket with the old pictures').optional(),
  MIGRATE_SOURCE_SECRET: text('the secret key of the bucket with the old pictures').optional(),
  MIGRATE_SOURCE_ENDPOINT: httpUrl('https://fra1.digitaloceanspaces.com').optional(),
  MIGRATE_SOURCE_REGION: text('the region of the bucket with the old pictures, e.g. fra1').optional(),

  UPLOAD_MAX_FILE_MIB: wholeNumber(10, LARGEST_FILE_MIB, 10),
  UPLOAD_MEMORY_MIB: wholeNumber(128, 65_536, 256),
  UPLOAD_WAIT_MS: wholeNumber(0, 120_000, 10_000),
  DECODE_PROCESSES: optionalWholeNumber(1, 64, 3),
  UPLOAD_SLOW_SECONDS: wholeNumber(1, 120, 10),
  UPLOAD_DEDUPE_SECONDS: wholeNumber(0, 86_400, 300),
  UPLOAD_GRACE_SECONDS: wholeNumber(1, 86_400, 120),
  SWEEP_INTERVAL_SECONDS: wholeNumber(0, 86_400, 60),
  SIGNED_URL_EXPIRES_SECONDS: wholeNumber(1, 3600, 3600),
  SIGNED_URL_WINDOW_SECONDS: wholeNumber(0, 1800, 0),
  RATE_LIMIT_SIGNED_URLS_PER_MINUTE: wholeNumber(1, 1_000_000, 600),
  RATE_LIMIT_UPLOADS_PER_MINUTE: wholeNumber(1, 1_000_000, 60),
  RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: wholeNumber(1, 1_000_000, 300),
  RATE_LIMIT_LINK_OPENS_PER_MINUTE: wholeNumber(1, 10_000_000, 6000),
});

type Environment = z.output<typeof environmentSchema>;

type DatabaseEnvironment = Pick<
  Environment,
  | 'DATABASE_URL'
  | 'DATABASE_DIRECT_URL'
  | 'DATABASE_POOLER'
  | 'DATABASE_CA_CERT'
  | 'DATABASE_POOL_SIZE'
  | 'DATABASE_CONNECT_TIMEOUT_MS'
  | 'DATABASE_STATEMENT_TIMEOUT_MS'
>;

type JwtEnvironment = Pick<
  Environment,
  | 'JWT_ALGORITHM'
  | 'JWT_SECRET'
  | 'JWT_SECRET_PREVIOUS'
  | 'JWT_PUBLIC_KEY'
  | 'JWT_PUBLIC_KEY_PREVIOUS'
  | 'JWT_JWKS_URL'
  | 'JWT_JWKS_CACHE_SECONDS'
  | 'JWT_ISSUER'
  | 'JWT_AUDIENCE'
  | 'JWT_TYPES'
  | 'JWT_REQUIRED_CLAIMS'
>;

/** A claim that a token must have. */
export type RequiredClaim = {
  readonly name: string;
  /** If set, the only accepted value, as text. */
  readonly value: string | undefined;
};

/** The keys for verifying tokens. */
export type JwtKeys =
  | {
      /** The shared secret (HS256) or the public key in PEM form (RS256, ES256). */
      readonly key: string;
      /** The previous key during a key rotation. Tokens signed with either key are accepted. */
      readonly previousKey?: string | undefined;
      readonly jwks?: undefined;
    }
  | { readonly key?: undefined; readonly previousKey?: undefined; readonly jwks: JwksSettings };

/** A key set (JWKS) published by another server. */
export type JwksSettings = {
  readonly url: string;
  /** Maximum age of cached keys, as long as the JWKS server responds. */
  readonly cacheSeconds: number;
};

/** How bearer tokens are verified: one algorithm, its keys, and required claims. */
export type JwtSettings = JwtKeys & {
  readonly algorithm: 'HS256' | 'RS256' | 'ES256';
  /** If set, the only accepted `iss`. */
  readonly issuer: string | undefined;
  /** If set, `aud` must be or contain this value. */
  readonly audience?: string | undefined;
  /** If set, the accepted values of `typ` in the token's header. */
  readonly types?: readonly string[] | undefined;
  readonly requiredClaims?: readonly RequiredClaim[] | undefined;
};

export type S3Settings = {
  readonly driver: 's3';
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** The address of the storage for the service itself. */
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  /** The bucket's address for clients. Signed URLs are made for this address, including its path. */
  readonly publicUrl: string;
  /** The `x-amz-acl` of every object; `none` for buckets that refuse ACLs, where only the owner has rights. */
  readonly objectAcl: 'private' | 'none';
  readonly connectTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly maxAttempts: number;
};

/** The access to a bucket with old pictures. */
export type SourceBucketSettings = Pick<
  S3Settings,
  'accessKeyId' | 'secretAccessKey' | 'endpoint' | 'region' | 'objectAcl'
>;

export type LocalStorageSettings = {
  readonly driver: 'local';
  readonly directory: string;
  /** Secret for signing the URLs that the service itself serves. */
  readonly secret: string;
};

export type DatabaseSettings = {
  readonly url: string;
  /** The database's direct address for migrations, if `url` is the address of a pooler. */
  readonly directUrl: string | undefined;
  /** Whether `url` is the address of a pooler in transaction mode (PgBouncer, `pool_mode = transaction`). */
  readonly pooled: boolean;
  /** The certificate authority of the database in PEM form, instead of the public authorities. */
  readonly caCert: string | undefined;
  /** Maximum number of connections of the process, for requests and upkeep together. */
  readonly poolSize: number;
  readonly connectTimeoutMs: number;
  readonly statementTimeoutMs: number;
};

/** The Redis in which all instances count together. */
export type RedisSettings = {
  readonly url: string;
  /** The certificate authority of Redis in PEM form, instead of the public authorities. */
  readonly caCert: string | undefined;
  /** How long a connection, or an answer, may take. */
  readonly timeoutMs: number;
};

/** Phase of the requirements' migration path from public to private pictures. See `migration-phase.ts`. */
export type MigrationPhase = Environment['MIGRATION_PHASE'];

/** The validated configuration. Names of durations end in their unit, `Ms` or `Seconds`. */
export type Settings = {
  readonly environment: Environment['NODE_ENV'];
  readonly port: number;
  /** The service's public address, without trailing slash. */
  readonly appUrl: string;
  readonly logLevel: Environment['LOG_LEVEL'];
  /** Where the metrics are served; `undefined` for nowhere. */
  readonly metrics: { readonly port: number; readonly host: string } | undefined;
  /** How long the port stays open after SIGTERM, with readiness false. */
  readonly shutdownDelayMs: number;
  /** Deadline for the process to end after the delay. */
  readonly shutdownTimeoutMs: number;
  readonly swaggerEnabled: boolean;
  /** Whether the demo is served, which gives everybody the tokens of its users. Never in production. */
  readonly demoEnabled: boolean;
  readonly corsOrigins: readonly string[];
  /** Express' `trust proxy`: the number or the addresses of proxies whose `X-Forwarded-For` is trusted. */
  readonly trustProxy: number | string;
  readonly database: DatabaseSettings;
  /** If missing, each process counts by itself. */
  readonly redis: RedisSettings | undefined;
  readonly jwt: JwtSettings;
  /** The column of the main application's table `users` that says whether a user may log in. */
  readonly usersActiveColumn: string | undefined;
  /** Whether a conversation may be a text session, a chat without appointment; otherwise only an appointment. */
  readonly textSessions: boolean;
  /** Whether thumbnails are made and handed out. */
  readonly thumbnails: boolean;
  /** Cache time of look-ups of revoked tokens; 0 for a look-up with every request. */
  readonly revocationCacheSeconds: number;
  readonly storage: S3Settings | LocalStorageSettings;
  readonly uploads: {
    /** Memory limit for all uploads of this process together. */
    readonly memoryBytes: number;
    /** The largest file. The picture in it is at most 10 MiB. */
    readonly maxFileBytes: number;
    /** Maximum wait of an upload for memory, and again for decoding. */
    readonly waitMs: number;
    /** Number of decoding processes. One user's pictures never occupy all of them, unless there is only one. */
    readonly decodeProcesses: number;
    /** How long an upload may be slower than 8 KB/s; see `upload-pace.ts`. */
    readonly slowSeconds: number;
    /** How long a duplicate upload (same picture, user and appointment) returns the first image. */
    readonly dedupeSeconds: number;
    /** Age after which the sweeper removes an unfinished upload, and an object without a row is reported. */
    readonly graceSeconds: number;
    /** Interval of the sweeper, which removes stale uploads after crashes; 0 for never. */
    readonly sweepIntervalSeconds: number;
  };
  readonly signedUrlExpiresSeconds: number;
  /** How long the signed URL of an image stays the same; 0 for a new URL each time. At most half of its lifetime. */
  readonly signedUrlWindowSeconds: number;
  readonly migration: {
    readonly phase: MigrationPhase;
    /** Public address of the old pictures. Replaces `{appUrl}/storage` in their addresses. */
    readonly legacyMediaUrl: string | undefined;
    /** Lifetime of a signed URL for a request without a token. */
    readonly linkUrlExpiresSeconds: number;
  };
  readonly rateLimits: {
    readonly signedUrlsPerMinute: number;
    readonly uploadsPerMinute: number;
    readonly unauthenticatedPerMinute: number;
    readonly linkOpensPerMinute: number;
  };
};

/** The environment is invalid. `problems` has one line per mistake, without any value. */
export class SettingsError extends Error {
  constructor(readonly problems: readonly string[]) {
    super(problems.join('\n'));
    this.name = 'SettingsError';
  }
}

/**
 * The process's environment. Variables that are not set come from `.env` in the working directory, if the file exists. The
 * only reader of `process.env`.
 */
export function readEnvironment(): NodeJS.ProcessEnv {
  if (existsSync('.env')) process.loadEnvFile('.env');
  return process.env;
}

/**
 * Validates an environment into settings.
 *
 * @throws SettingsError with one line per variable that is missing or malformed
 */
export function loadSettings(environment: NodeJS.ProcessEnv): Settings {
  const schema = withBucketAddress(withNeeds(withJwtKeys(environmentSchema), STORAGE_NEEDS))
    .refine((values) => values.SIGNED_URL_WINDOW_SECONDS * 2 <= values.SIGNED_URL_EXPIRES_SECONDS, {
      path: ['SIGNED_URL_WINDOW_SECONDS'],
      message: 'must be at most half of SIGNED_URL_EXPIRES_SECONDS, so that no URL is handed out as it ends',
    })
    .refine((values) => values.UPLOAD_MAX_FILE_MIB * 10 + 4 <= values.UPLOAD_MEMORY_MIB, {
      path: ['UPLOAD_MEMORY_MIB'],
      message:
        'must be more than ten times UPLOAD_MAX_FILE_MIB: a file counts five times, and a user has half of the memory',
    })
    .refine((values) => values.METRICS_PORT === undefined || values.METRICS_PORT !== values.PORT, {
      path: ['METRICS_PORT'],
      message: 'must be another port than PORT: the metrics are not public',
      when: () => true,
    })
    .refine((values) => values.REDIS_CA_CERT === undefined || /^rediss:/i.test(values.REDIS_URL ?? ''), {
      path: ['REDIS_CA_CERT'],
      message: 'must not be set unless REDIS_URL begins with rediss://: without TLS nothing is verified',
    })
    .refine((values) => values.NODE_ENV !== 'production' || !isUnencrypted(values.JWT_JWKS_URL), {
      path: ['JWT_JWKS_URL'],
      message: 'must be an https URL in production: an attacker on the network could replace the keys',
      when: () => true,
    })
    .refine((values) => values.NODE_ENV !== 'production' || !values.DEMO_ENABLED, {
      path: ['DEMO_ENABLED'],
      message: 'must not be true in production: the demo gives everybody the tokens of its users',
      when: () => true,
    })
    .refine((values) => values.JWT_ALGORITHM === 'HS256' || !values.DEMO_ENABLED, {
      path: ['DEMO_ENABLED'],
      message: 'must not be true without JWT_ALGORITHM=HS256: the demo signs the tokens of its users',
      when: () => true,
    });
  const env = parse(schema, environment);
  return {
    environment: env.NODE_ENV,
    port: env.PORT,
    appUrl: env.APP_URL,
    logLevel: env.LOG_LEVEL,
    metrics: env.METRICS_PORT === undefined ? undefined : { port: env.METRICS_PORT, host: env.METRICS_HOST },
    shutdownDelayMs:
      env.SHUTDOWN_DELAY_MS ?? (env.NODE_ENV === 'production' ? SHUTDOWN_DELAY_IN_PRODUCTION_MS : 0),
    shutdownTimeoutMs: env.SHUTDOWN_TIMEOUT_MS,
    swaggerEnabled:
      env.SWAGGER_ENABLED === undefined ? env.NODE_ENV !== 'production' : env.SWAGGER_ENABLED === 'true',
    demoEnabled: env.DEMO_ENABLED,
    corsOrigins: env.CORS_ORIGINS,
    trustProxy: env.TRUST_PROXY,
    database: databaseSettings(env),
    redis: redisSettings(env),
    jwt: jwtSettings(env),
    usersActiveColumn: env.USERS_ACTIVE_COLUMN,
    textSessions: env.TEXT_SESSIONS,
    thumbnails: env.THUMBNAILS,
    revocationCacheSeconds: env.REVOCATION_CACHE_SECONDS,
    storage: storageSettings(env),
    uploads: {
      maxFileBytes: env.UPLOAD_MAX_FILE_MIB * 1024 * 1024,
      memoryBytes: env.UPLOAD_MEMORY_MIB * 1024 * 1024,
      waitMs: env.UPLOAD_WAIT_MS,
      decodeProcesses: env.DECODE_PROCESSES ?? DEFAULT_DECODE_PROCESSES,
      slowSeconds: env.UPLOAD_SLOW_SECONDS,
      dedupeSeconds: env.UPLOAD_DEDUPE_SECONDS,
      graceSeconds: env.UPLOAD_GRACE_SECONDS,
      sweepIntervalSeconds: env.SWEEP_INTERVAL_SECONDS,
    },
    signedUrlExpiresSeconds: env.SIGNED_URL_EXPIRES_SECONDS,
    signedUrlWindowSeconds: env.SIGNED_URL_WINDOW_SECONDS,
    migration: {
      phase: env.MIGRATION_PHASE,
      legacyMediaUrl: env.LEGACY_MEDIA_URL,
      linkUrlExpiresSeconds: env.LINK_URL_EXPIRES_SECONDS,
    },
    rateLimits: {
      signedUrlsPerMinute: env.RATE_LIMIT_SIGNED_URLS_PER_MINUTE,
      uploadsPerMinute: env.RATE_LIMIT_UPLOADS_PER_MINUTE,
      unauthenticatedPerMinute: env.RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE,
      linkOpensPerMinute: env.RATE_LIMIT_LINK_OPENS_PER_MINUTE,
    },
  };
}

/**
 * Validates only the settings of bearer tokens.
 *
 * @throws SettingsError as {@link loadSettings}
 */
export function loadJwtSettings(environment: NodeJS.ProcessEnv): JwtSettings {
  const schema = environmentSchema.pick({
    JWT_ALGORITHM: true,
    JWT_SECRET: true,
    JWT_SECRET_PREVIOUS: true,
    JWT_PUBLIC_KEY: true,
    JWT_PUBLIC_KEY_PREVIOUS: true,
    JWT_JWKS_URL: true,
    JWT_JWKS_CACHE_SECONDS: true,
    JWT_ISSUER: true,
    JWT_AUDIENCE: true,
    JWT_TYPES: true,
    JWT_REQUIRED_CLAIMS: true,
  });
  return jwtSettings(parse(withJwtKeys(schema), environment));
}

/**
 * Validates only the settings of the database.
 *
 * @throws SettingsError as {@link loadSettings}
 */
export function loadDatabaseSettings(environment: NodeJS.ProcessEnv): DatabaseSettings {
  const schema = environmentSchema.pick({
    DATABASE_URL: true,
    DATABASE_DIRECT_URL: true,
    DATABASE_POOLER: true,
    DATABASE_CA_CERT: true,
    DATABASE_POOL_SIZE: true,
    DATABASE_CONNECT_TIMEOUT_MS: true,
    DATABASE_STATEMENT_TIMEOUT_MS: true,
  });
  return databaseSettings(parse(schema, environment));
}

/**
 * Validates the access to a bucket with old pictures. What MIGRATE_SOURCE_ variables do not say is as for the service's own
 * bucket.
 *
 * @throws SettingsError as {@link loadSettings}
 */
export function loadSourceBucketSettings(environment: NodeJS.ProcessEnv): SourceBucketSettings {
  const schema = environmentSchema.pick({
    DO_SPACES_KEY: true,
    DO_SPACES_SECRET: true,
    DO_SPACES_ENDPOINT: true,
    DO_SPACES_REGION: true,
    DO_SPACES_OBJECT_ACL: true,
    MIGRATE_SOURCE_KEY: true,
    MIGRATE_SOURCE_SECRET: true,
    MIGRATE_SOURCE_ENDPOINT: true,
    MIGRATE_SOURCE_REGION: true,
  });
  const env = parse(schema, environment);
  const either = (name: 'KEY' | 'SECRET' | 'ENDPOINT' | 'REGION'): string => {
    const value = env[`MIGRATE_SOURCE_${name}`] ?? env[`DO_SPACES_${name}`];
    if (value === undefined)
      throw new SettingsError([
        `MIGRATE_SOURCE_${name} is missing: ${expectationOf(`MIGRATE_SOURCE_${name}`)}`,
      ]);
    return value;
  };
  return {
    accessKeyId: either('KEY'),
    secretAccessKey: either('SECRET'),
    endpoint: either('ENDPOINT'),
    region: either('REGION'),
    objectAcl: env.DO_SPACES_OBJECT_ACL,
  };
}

/**
 * Validates only MIGRATION_PHASE.
 *
 * @throws SettingsError as {@link loadSettings}
 */
export function loadMigrationPhase(environment: NodeJS.ProcessEnv): MigrationPhase {
  return parse(environmentSchema.pick({ MIGRATION_PHASE: true }), environment).MIGRATION_PHASE;
}

/** A variable that is required only when another variable has a certain value. */
type Need = readonly [name: keyof Environment, when: keyof Environment, value: string];

const STORAGE_NEEDS: readonly Need[] = [
  ['DO_SPACES_KEY', 'STORAGE_DRIVER', 's3'],
  ['DO_SPACES_SECRET', 'STORAGE_DRIVER', 's3'],
  ['DO_SPACES_ENDPOINT', 'STORAGE_DRIVER', 's3'],
  ['DO_SPACES_REGION', 'STORAGE_DRIVER', 's3'],
  ['DO_SPACES_BUCKET', 'STORAGE_DRIVER', 's3'],
  ['DO_SPACES_URL', 'STORAGE_DRIVER', 's3'],
  ['LOCAL_STORAGE_DIR', 'STORAGE_DRIVER', 'local'],
  ['LOCAL_STORAGE_SECRET', 'STORAGE_DRIVER', 'local'],
];

/** Adds conditionally required variables to a schema. Checked even if other variables are wrong, to report all mistakes. */
function withNeeds<S extends z.ZodType<Partial<Environment>>>(schema: S, needs: readonly Need[]): S {
  return needs.reduce<S>(
    (checked, [name, condition, value]) =>
      checked.refine((env) => env[condition] !== value || env[name] !== undefined, {
        path: [name],
        message: `${expectationOf(name)} (needed with ${condition}=${value})`,
        when: () => true,
      }),
    schema,
  );
}

/** Adds the keys required by the algorithm. Checked even if other variables are wrong. */
function withJwtKeys<S extends z.ZodType<JwtEnvironment>>(schema: S): S {
  const isSet = (value: string | undefined): boolean => value !== undefined;
  // An invalid algorithm is reported by the schema of JWT_ALGORITHM.
  const needsPublicKey = (env: JwtEnvironment): boolean => ['RS256', 'ES256'].includes(env.JWT_ALGORITHM);
  return withNeeds(schema, [['JWT_SECRET', 'JWT_ALGORITHM', 'HS256']])
    .refine((env) => !needsPublicKey(env) || isSet(env.JWT_PUBLIC_KEY) || isSet(env.JWT_JWKS_URL), {
      path: ['JWT_PUBLIC_KEY'],
      error: ({ input }) =>
        `${expectationOf('JWT_PUBLIC_KEY')} (needed with JWT_ALGORITHM=${(input as JwtEnvironment).JWT_ALGORITHM}, unless JWT_JWKS_URL is set)`,
      when: () => true,
    })
    .refine((env) => !needsPublicKey(env) || !isSet(env.JWT_PUBLIC_KEY) || !isSet(env.JWT_JWKS_URL), {
      path: ['JWT_JWKS_URL'],
      message: 'must not be set together with JWT_PUBLIC_KEY: the keys come from one place',
      when: () => true,
    })
    .refine((env) => env.JWT_ALGORITHM !== 'HS256' || !isSet(env.JWT_JWKS_URL), {
      path: ['JWT_JWKS_URL'],
      message: 'must not be set with JWT_ALGORITHM=HS256: a shared secret is not published',
      when: () => true,
    })
    .refine((env) => !isSet(env.JWT_PUBLIC_KEY_PREVIOUS) || !isSet(env.JWT_JWKS_URL), {
      path: ['JWT_PUBLIC_KEY_PREVIOUS'],
      message: 'must not be set together with JWT_JWKS_URL, which publishes the previous key as well',
      when: () => true,
    });
}

/** Adds the checks across the addresses of the bucket. Checked even if other variables are wrong. */
function withBucketAddress<S extends z.ZodType<Environment>>(schema: S): S {
  return schema
    .refine((env) => env.STORAGE_DRIVER !== 's3' || endpointWithoutBucket(env) === undefined, {
      path: ['DO_SPACES_ENDPOINT'],
      error: ({ input }) =>
        `must be the address without the bucket: ${endpointWithoutBucket(input as Environment) ?? ''}`,
      when: () => true,
    })
    .refine((env) => env.STORAGE_DRIVER !== 's3' || bucketUrl(env) === undefined, {
      path: ['DO_SPACES_URL'],
      error: ({ input }) => {
        const { mistake, right } = bucketUrl(input as Environment) ?? { mistake: '', right: '' };
        return `${mistake}: ${right}`;
      },
      when: () => true,
    });
}

function parse<S extends z.ZodType>(schema: S, environment: NodeJS.ProcessEnv): z.output<S> {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value));
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.map((issue) => {
    const name = String(issue.path[0]);
    if (name in given) return `${name} ${issue.message}`;
    return `${name} is missing: ${issue.code === 'custom' ? issue.message : expectationOf(name)}`;
  });
  throw new SettingsError([...new Map(lines.map((line) => [line.split(' ')[0], line])).values()]);
}

function jwtSettings(env: JwtEnvironment): JwtSettings {
  return {
    algorithm: env.JWT_ALGORITHM,
    ...jwtKeys(env),
    issuer: env.JWT_ISSUER,
    audience: env.JWT_AUDIENCE,
    types: env.JWT_TYPES,
    requiredClaims: env.JWT_REQUIRED_CLAIMS,
  };
}

function jwtKeys(env: JwtEnvironment): JwtKeys {
  if (env.JWT_ALGORITHM === 'HS256')
    return { key: present(env.JWT_SECRET), previousKey: env.JWT_SECRET_PREVIOUS };
  if (env.JWT_JWKS_URL !== undefined)
    return { jwks: { url: env.JWT_JWKS_URL, cacheSeconds: env.JWT_JWKS_CACHE_SECONDS } };
  const wanted = env.JWT_ALGORITHM === 'RS256' ? 'rsa' : 'ec';
  const problems = (['JWT_PUBLIC_KEY', 'JWT_PUBLIC_KEY_PREVIOUS'] as const)
    .filter((name) => {
      const key = env[name];
      return key !== undefined && createPublicKey(key).asymmetricKeyType !== wanted;
    })
    .map(
      (name) => `${name} must be an ${wanted.toUpperCase()} key, as JWT_ALGORITHM=${env.JWT_ALGORITHM} says`,
    );
  if (problems.length > 0) throw new SettingsError(problems);
  return { key: present(env.JWT_PUBLIC_KEY), previousKey: env.JWT_PUBLIC_KEY_PREVIOUS };
}

function databaseSettings(env: DatabaseEnvironment): DatabaseSettings {
  return {
    url: env.DATABASE_URL,
    directUrl: env.DATABASE_DIRECT_URL,
    pooled: env.DATABASE_POOLER === 'transaction',
    caCert: env.DATABASE_CA_CERT,
    poolSize: env.DATABASE_POOL_SIZE,
    connectTimeoutMs: env.DATABASE_CONNECT_TIMEOUT_MS,
    statementTimeoutMs: env.DATABASE_STATEMENT_TIMEOUT_MS,
  };
}

function redisSettings({
  REDIS_URL,
  REDIS_CA_CERT,
  REDIS_TIMEOUT_MS,
}: Environment): RedisSettings | undefined {
  if (REDIS_URL === undefined) return undefined;
  return { url: REDIS_URL, caCert: REDIS_CA_CERT, timeoutMs: REDIS_TIMEOUT_MS };
}

function storageSettings(env: Environment): S3Settings | LocalStorageSettings {
  if (env.STORAGE_DRIVER === 'local') {
    return {
      driver: 'local',
      directory: present(env.LOCAL_STORAGE_DIR),
      secret: present(env.LOCAL_STORAGE_SECRET),
    };
  }
  return {
    driver: 's3',
    accessKeyId: present(env.DO_SPACES_KEY),
    secretAccessKey: present(env.DO_SPACES_SECRET),
    endpoint: present(env.DO_SPACES_ENDPOINT),
    region: present(env.DO_SPACES_REGION),
    bucket: present(env.DO_SPACES_BUCKET),
    publicUrl: present(env.DO_SPACES_URL),
    objectAcl: env.DO_SPACES_OBJECT_ACL,
    connectTimeoutMs: env.STORAGE_CONNECT_TIMEOUT_MS,
    requestTimeoutMs: env.STORAGE_REQUEST_TIMEOUT_MS,
    maxAttempts: env.STORAGE_MAX_ATTEMPTS,
  };
}

/** Narrows the type of a variable that the schema has already checked. */
function present(value: string | undefined): string {
  if (value === undefined) throw new Error('A needed variable was not checked.');
  return value;
}

/** The expected form of a missing variable: the error message of its schema for an empty string. */
function expectationOf(name: string): string {
  const schema = environmentSchema.shape[name as keyof Environment];
  return schema.safeParse('').error?.issues[0]?.message ?? 'must be set';
}

function isHttpUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const url = new URL(value);
  return /^https?:$/.test(url.protocol) && url.search === '' && url.hash === '' && url.username === '';
}

/** Whether the value is a valid address of a key set. The address may have a query. */
function isKeysUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const { protocol, username, password, hash } = new URL(value);
  return /^https?:$/.test(protocol) && username + password + hash === '';
}

/** Whether an address is http, not https. */
export function isUnencrypted(url: string | undefined): boolean {
  return url !== undefined && URL.canParse(url) && new URL(url).protocol === 'http:';
}

/** Validates with proxy-addr, the library of Express, which throws. proxy-addr alone would accept a number as an address. */
function isTrustProxy(value: string): boolean {
  if (/^\d+$/.test(value)) return true;
  const addresses = listOf(value);
  try {
    proxyAddr.compile(addresses);
  } catch {
    return false;
  }
  return addresses.every((address) => /^[a-z]+$/.test(address) || isIP(address.replace(/\/.*/, '')) !== 0);
}

function listOf(value: string): string[] {
  return value.split(',').map((item) => item.trim());
}

function toRequiredClaim(text: string): RequiredClaim {
  const end = text.indexOf('=');
  return end === -1
    ? { name: text, value: undefined }
    : { name: text.slice(0, end), value: text.slice(end + 1) };
}

function isPostgresUrl(value: string): boolean {
  return URL.canParse(value) && /^postgres(ql)?:$/.test(new URL(value).protocol);
}

/** Whether the value is an address of Redis. Its path may be the number of a database. */
function isRedisUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const { protocol, hostname, pathname, search, hash } = new URL(value);
  return (
    /^rediss?:$/.test(protocol) && hostname !== '' && /^(\/\d*)?$/.test(pathname) && search + hash === ''
  );
}

/** The value itself if it is PEM text, with real line breaks; else the content of the file with this path. */
function readPem(value: string): string {
  if (value.includes('-----BEGIN ')) return value.replaceAll('\\n', '\n');
  try {
    return readFileSync(value, 'utf8');
  } catch {
    return '';
  }
}

function isCertificate(value: string): boolean {
  try {
    return new X509Certificate(value).ca;
  } catch {
    return false;
  }
}

function isPublicKey(value: string): boolean {
  try {
    // With several keys, createPublicKey would silently use only the first key.
    return value.split('BEGIN PUBLIC KEY').length === 2 && createPublicKey(value).type === 'public';
  } catch {
    return false;
  }
}
