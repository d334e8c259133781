import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { pino } from 'pino';
import { parse } from 'yaml';
import { z } from 'zod';
import { signToken } from '../../src/auth/sign-token.js';
import { loadSettings, type Settings } from '../../src/config/settings.js';
import { type EmbeddedDatabase, freePort, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { createApp } from '../../src/server.js';
import { phonePhoto } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { s3Environment } from '../support/s3-environment.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT } from '../support/test-app.js';

/** The part of the Compose file that this test reads. An unknown key of a service is an error. */
const serviceSchema = z.strictObject({
  image: z.string(),
  build: z.strictObject({ context: z.literal('.'), target: z.literal('development') }).optional(),
  pull_policy: z.literal('never').optional(),
  entrypoint: z.array(z.string()).optional(),
  command: z.array(z.string()).optional(),
  environment: z.record(z.string(), z.string()),
  ports: z.array(z.string()).default([]),
  volumes: z.array(z.string()).optional(),
  depends_on: z
    .record(
      z.string(),
      z.strictObject({ condition: z.enum(['service_healthy', 'service_completed_successfully']) }),
    )
    .default({}),
  healthcheck: z
    .strictObject({
      test: z.tuple([z.literal('CMD')], z.string()),
      interval: z.string(),
      timeout: z.string(),
      retries: z.number(),
      start_period: z.string().optional(),
    })
    .optional(),
  stop_grace_period: z.string().optional(),
  user: z.string().optional(),
  init: z.boolean().optional(),
  read_only: z.boolean().optional(),
  tmpfs: z.array(z.string()).optional(),
  cap_drop: z.array(z.string()).optional(),
  security_opt: z.array(z.string()).optional(),
});
type Service = z.output<typeof serviceSchema>;

const services = readServices({});
const api = service('api');

describe('docker-compose.yml', () => {
  it('starts each service after the services that it needs', () => {
    for (const [name, { depends_on }] of Object.entries(services)) {
      for (const [needed, { condition }] of Object.entries(depends_on)) {
        const runs = service(needed).healthcheck !== undefined;
        expect({ name, needed, condition }).toEqual({
          name,
          needed,
          condition: runs ? 'service_healthy' : 'service_completed_successfully',
        });
      }
    }
    expect(Object.keys(api.depends_on).sort()).toEqual(
      Object.keys(services)
        .filter((name) => name !== 'api')
        .sort(),
    );
    expect(Object.keys(service('seed').depends_on).sort()).toEqual([
      'bucket',
      'migrate',
      'minio',
      'postgres',
    ]);
    expect(Object.keys(service('migrate').depends_on)).toEqual(['postgres']);
    expect(Object.keys(service('bucket').depends_on)).toEqual(['minio']);
  });

  it('pins every image, and builds its own image once', () => {
    const own = Object.entries(services).filter(([, { image }]) => image === api.image);
    expect(own.map(([name, { build, pull_policy }]) => [name, build?.target ?? pull_policy])).toEqual([
      ['migrate', 'development'],
      // The image is in no registry, so a pull would fail.
      ['seed', 'never'],
      ['api', 'never'],
    ]);
    for (const { image } of Object.values(services)) {
      if (image !== api.image) expect(image).toMatch(/:(\d+\.\d+-alpine|RELEASE\.[\dTZ-]+)$/);
    }
    // Every service that runs the image waits for the service that builds it.
    expect(service('seed').depends_on).toHaveProperty('migrate');
    expect(api.depends_on).toHaveProperty('migrate');
  });

  it('publishes ports only on this machine', () => {
    const published = Object.values(services).flatMap(({ ports }) => ports);
    expect(published).toEqual(['127.0.0.1:9000:9000', '127.0.0.1:9001:9001', '127.0.0.1:3000:3000']);
  });

  it('publishes ports on HOST_ADDRESS for phones, and allows CORS_ORIGINS for web builds', () => {
    const theirs = readServices({
      HOST_ADDRESS: '192.168.1.20',
      API_PORT: '3010',
      STORAGE_PORT: '9010',
      CONSOLE_PORT: '9011',
      CORS_ORIGINS: 'http://192.168.1.20:8081,http://localhost:8081',
    });
    expect(theirs.api?.ports).toEqual(['192.168.1.20:3010:3000']);
    // The console stays on this machine.
    expect(theirs.minio?.ports).toEqual(['192.168.1.20:9010:9000', '127.0.0.1:9011:9001']);
    const { appUrl, corsOrigins, storage } = loadSettings(theirs.api?.environment ?? {});
    expect(appUrl).toBe('http://192.168.1.20:3010');
    expect(corsOrigins).toEqual(['http://192.168.1.20:8081', 'http://localhost:8081']);
    expect(storage).toMatchObject({
      endpoint: 'http://minio:9000',
      publicUrl: 'http://192.168.1.20:9010/docavailable-storage',
    });
    expect(theirs.seed?.environment).toEqual(theirs.api?.environment);
  });

  it('uses no address from the .env of production', () => {
    const production = {
      APP_URL: 'https://api.example.com',
      DO_SPACES_URL: 'https://docavailable-storage.fra1.digitaloceanspaces.com',
      DO_SPACES_ENDPOINT: 'https://fra1.digitaloceanspaces.com',
      DO_SPACES_BUCKET: 'docavailable-storage',
      DATABASE_URL: 'postgres://user:password@db.example.com:5432/docavailable',
      NODE_ENV: 'production',
      PORT: '8080',
    };
    expect(readServices(production)).toEqual(services);
  });

  it('drops unneeded privileges, and gives the service time to shut down', () => {
    for (const name of ['migrate', 'seed', 'api']) {
      expect(service(name)).toMatchObject({
        read_only: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
      });
    }
    const { shutdownDelayMs, shutdownTimeoutMs } = loadSettings(api.environment);
    expect(parseInt(api.stop_grace_period ?? '', 10) * 1000).toBeGreaterThan(
      shutdownDelayMs + shutdownTimeoutMs,
    );
  });

  it.each(['migrate', 'seed'])('%s has the settings of the service, and a command that exists', (name) => {
    const { environment, command } = service(name);
    expect(environment).toEqual(api.environment);
    const [node, script = ''] = command ?? [];
    expect(node).toBe('node');
    expect(existsSync(script.replace('dist/', 'src/').replace('.js', '.ts'))).toBe(true);
  });

  it('has matching addresses, names and passwords in all services', () => {
    const env = api.environment;
    const postgres = service('postgres').environment;
    expect(env.DATABASE_URL).toBe(
      `postgres://${postgres.POSTGRES_USER}:${postgres.POSTGRES_PASSWORD}@postgres:5432/${postgres.POSTGRES_DB}`,
    );
    const minio = service('minio').environment;
    expect([env.DO_SPACES_KEY, env.DO_SPACES_SECRET]).toEqual([
      minio.MINIO_ROOT_USER,
      minio.MINIO_ROOT_PASSWORD,
    ]);
    expect(service('bucket')).toMatchObject({
      entrypoint: ['mc', 'mb', '--ignore-existing', `minio/${env.DO_SPACES_BUCKET}`],
      environment: {
        MC_HOST_minio: `http://${minio.MINIO_ROOT_USER}:${minio.MINIO_ROOT_PASSWORD}@minio:9000`,
      },
    });
    expect(env.DO_SPACES_ENDPOINT).toBe('http://minio:9000');
    // The addresses on the host are those of the published ports.
    expect(service('minio').ports).toContain('127.0.0.1:9000:9000');
    expect(env.DO_SPACES_URL).toBe(`http://localhost:9000/${env.DO_SPACES_BUCKET}`);
    expect(api.ports).toEqual([`127.0.0.1:3000:${env.PORT}`]);
    expect(env.APP_URL).toBe('http://localhost:3000');
  });

  it('takes secrets from the environment, with the same value in all services', () => {
    const given = {
      POSTGRES_PASSWORD: 'their-database-password',
      MINIO_ROOT_PASSWORD: 'their-storage-password',
      JWT_SECRET: 'their own secret of the main application',
    };
    const theirs = readServices(given);
    const values = Object.values(theirs).flatMap(({ environment }) => Object.values(environment));
    expect(values.filter((value) => value.includes('development-only-'))).toEqual([]);
    expect(theirs.api?.environment).toMatchObject({
      JWT_SECRET: given.JWT_SECRET,
      DO_SPACES_SECRET: given.MINIO_ROOT_PASSWORD,
      DATABASE_URL: `postgres://chat_images:${given.POSTGRES_PASSWORD}@postgres:5432/chat_images`,
    });
  });

  const compose = composeCommand();
  const withCompose = compose ? it : it.skip;

  withCompose.each<Record<string, string>>([
    {},
    { HOST_ADDRESS: '192.168.1.20', API_PORT: '3010', CORS_ORIGINS: 'http://localhost:8081' },
  ])('is read here as Docker Compose reads it (skipped without Docker), with %j', (set) => {
    const [command = '', ...args] = compose ?? [];
    // An .env copied from the example has empty secrets, and must not disturb.
    const output = execFileSync(command, [...args, '--env-file', '.env.example', 'config'], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ...set },
    });
    const read = Object.entries(readServices(set)).map(([name, { image, environment, ports }]) => [
      name,
      { image, environment, ports },
    ]);
    expect(resolvedFileSchema.parse(parse(output)).services).toEqual(Object.fromEntries(read));
  });
});

/** The compared part of the output of `config`. The two versions of Compose write ports differently. */
const resolvedFileSchema = z.object({
  services: z.record(
    z.string(),
    z.object({
      image: z.string(),
      environment: z.record(z.string(), z.string()),
      ports: z
        .array(
          z.union([
            z.string().transform((port) => port.replace('/tcp', '')),
            z
              .object({ host_ip: z.string(), published: z.coerce.string(), target: z.number() })
              .transform(({ host_ip, published, target }) => `${host_ip}:${published}:${target}`),
          ]),
        )
        .default([]),
    }),
  ),
});

/** The settings of an S3 server that replaces MinIO. */
const s3 = s3Environment();

(s3 ? describe : describe.skip)('the service with the environment of docker-compose.yml', () => {
  let postgres: EmbeddedDatabase | undefined;
  let app: NestExpressApplication | undefined;
  let settings: Settings;

  beforeAll(async () => {
    postgres = await startEmbeddedPostgres('throwaway');
    await makeUserAndDatabase(postgres, service('postgres').environment);
    const environment = mapped(api.environment, postgres);
    settings = loadSettings(environment);
    // Both run again at every `docker compose up`.
    for (const name of ['migrate', 'seed', 'migrate', 'seed']) await runToItsEnd(name, environment);
    app = await createApp(settings, pino({ level: 'silent' }));
    await app.listen(0, '127.0.0.1');
  });

  afterAll(async () => {
    await app?.close();
    await postgres?.stop();
  });

  it('passes the health checks of the Compose file and of the image', async () => {
    const [, ...check] = api.healthcheck?.test ?? [];
    expect(check.join(' ')).toContain(`http://127.0.0.1:${api.environment.PORT}/api/health/ready`);
    const onOurPort = check.map((word) => word.replace(`:${api.environment.PORT}/`, `:${port()}/`));
    const image = /HEALTHCHECK [^[]*(\[.+\])/.exec(readFileSync('Dockerfile', 'utf8'))?.[1] ?? '';
    const imageCheck = z.array(z.string()).parse(JSON.parse(image));
    expect(await exitCode(onOurPort)).toBe(0);
    expect(await exitCode(imageCheck)).toBe(0);
    // Both checks fail when nothing answers.
    const unused = await freePort();
    const onUnused = check.map((word) => word.replace(`:${api.environment.PORT}/`, `:${unused}/`));
    expect(await exitCode(onUnused)).toBe(1);
    expect(await exitCode(imageCheck, unused)).toBe(1);
  });

  it('serves Swagger UI', async () => {
    const answer = await fetch(`http://127.0.0.1:${port()}/api/docs`);
    expect(answer.status).toBe(200);
    expect(await answer.text()).toContain('swagger-ui');
  });

  it('has the sample pictures of the example on the Swagger page', async () => {
    const answer = await request(PATIENT, '/api/chat-images/signed-urls', {
      method: 'POST',
      body: JSON.stringify({ ids: [1, 2] }),
      headers: { 'content-type': 'application/json' },
    });
    const pictures = await data(answer, z.array(z.object({ id: z.number(), url: z.string() })));
    expect(pictures.map(({ id }) => id)).toEqual([1, 2]);
    for (const { url } of pictures) expect((await fetch(url)).status).toBe(200);
    const list = await request(DOCTOR, `/api/appointments/${APPOINTMENT}/chat-images`);
    expect((await data(list, z.object({ images: z.array(z.unknown()) }))).images).toHaveLength(2);
  });

  it('stores a picture of the patient, and the signed URL works on the host', async () => {
    const photo = await phonePhoto();
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(photo)], { type: 'image/jpeg' }), 'photo.jpg');
    form.append('appointment_id', String(APPOINTMENT));
    const uploaded = await request(PATIENT, '/api/upload/chat-image', { method: 'POST', body: form });
    expect(uploaded.status).toBe(200);
    const { id, media_url } = await data(uploaded, z.object({ id: z.number(), media_url: z.string() }));
    expect(media_url).toMatch(/^http:\/\/localhost:3000\/storage\/chat_images\//);

    const signed = await request(DOCTOR, `/api/chat-images/${id}/signed-url`);
    expect(signed.status).toBe(200);
    const { url } = await data(signed, z.object({ url: z.string() }));
    expect(url.startsWith(`${publicUrl()}/chat_images/appointment_${APPOINTMENT}/`)).toBe(true);

    const picture = await fetch(url);
    expect(picture.status).toBe(200);
    expect(picture.headers.get('content-type')).toBe('image/jpeg');
    expect((await picture.arrayBuffer()).byteLength).toBeGreaterThan(1000);
    // The bucket is private, so the address without its signature is refused.
    expect((await fetch(url.replace(/\?.*/, ''))).status).toBe(403);
    // User 3 is an outsider.
    expect((await request(OUTSIDER, `/api/chat-images/${id}/signed-url`)).status).toBe(403);
  });

  function port(): number {
    if (!app) throw new Error('The service has not started.');
    const server: Server = app.getHttpServer();
    return (server.address() as AddressInfo).port;
  }

  function request(
    user: number,
    path: string,
    {
      headers,
      ...init
    }: { method?: string; body?: FormData | string; headers?: Record<string, string> } = {},
  ): Promise<Response> {
    const authorization = `Bearer ${signToken(user, settings.jwt, 3600)}`;
    return fetch(`http://127.0.0.1:${port()}${path}`, { ...init, headers: { authorization, ...headers } });
  }

  /** Runs a command as Docker does, in another process, as this process must answer it. */
  async function exitCode([command = '', ...args]: string[], onPort = port()): Promise<unknown> {
    const env = { PATH: process.env.PATH, PORT: String(onPort) };
    const [code] = (await once(spawn(command, args, { env }), 'exit')) as unknown[];
    return code;
  }
});

/** The environment of the Compose file, without the names that exist only in Docker. */
function mapped(env: Service['environment'], postgres: EmbeddedDatabase): NodeJS.ProcessEnv {
  return {
    ...env,
    DATABASE_URL: env.DATABASE_URL?.replace('@postgres:5432/', `@127.0.0.1:${postgres.port}/`),
    DO_SPACES_ENDPOINT: env.DO_SPACES_ENDPOINT?.replace('http://minio:9000', s3?.DO_SPACES_ENDPOINT ?? ''),
    DO_SPACES_URL: publicUrl(),
    DO_SPACES_KEY: s3?.DO_SPACES_KEY,
    DO_SPACES_SECRET: s3?.DO_SPACES_SECRET,
    DO_SPACES_BUCKET: s3?.DO_SPACES_BUCKET,
  };
}

/** The bucket's address on the host, which differs from the service's, as in the Compose file. */
function publicUrl(): string {
  return s3?.DO_SPACES_URL?.replace('127.0.0.1', 'localhost') ?? '';
}

/** Does what the PostgreSQL image does at its first start. */
async function makeUserAndDatabase(postgres: EmbeddedDatabase, env: Service['environment']): Promise<void> {
  const client = new pg.Client({ connectionString: await postgres.database(env.POSTGRES_DB ?? '') });
  await client.connect();
  await client.query(
    `CREATE ROLE ${pg.escapeIdentifier(env.POSTGRES_USER ?? '')} SUPERUSER LOGIN PASSWORD ${pg.escapeLiteral(env.POSTGRES_PASSWORD ?? '')}`,
  );
  await client.end();
}

/** Runs the command of a service until it ends. */
async function runToItsEnd(name: string, env: NodeJS.ProcessEnv): Promise<void> {
  const [, script = '', ...args] = service(name).command ?? [];
  const run = new RunningProcess([script.replace(/^dist\//, ''), ...args], { env });
  expect([name, await run.exit, run.output]).toEqual([name, 0, expect.any(String)]);
}

async function data<T>(answer: Response, schema: z.ZodType<T>): Promise<T> {
  return z.object({ data: schema }).parse(await answer.json()).data;
}

/** The services of the file, as Compose reads it with these variables set. */
function readServices(variables: Record<string, string>): Record<string, Service> {
  // The file uses only the form `${NAME:-default}`.
  const text = readFileSync('docker-compose.yml', 'utf8').replace(
    /\$\{([A-Z_]+):-([^}]*)\}/g,
    (_, name: string, preset: string) => variables[name] ?? preset,
  );
  expect(text.replace(/^\s*#.*$/gm, '')).not.toContain('$');
  const file = z.strictObject({
    services: z.record(z.string(), serviceSchema),
    volumes: z.record(z.string(), z.null()),
  });
  return file.parse(parse(text)).services;
}

function service(name: string): Service {
  const found = services[name];
  if (!found) throw new Error(`docker-compose.yml has no service ${name}`);
  return found;
}

/** Docker Compose as a plug-in or as the older command; undefined without both. */
function composeCommand(): string[] | undefined {
  return [['docker', 'compose'], ['docker-compose']].find(
    ([command = '', ...args]) => spawnSync(command, [...args, 'version']).status === 0,
  );
}
