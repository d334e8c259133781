import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { DataSource } from 'typeorm';
import { signToken } from '../auth/sign-token.js';
import { loadSettings, readEnvironment, type Settings } from '../config/settings.js';
import { ENTITIES } from '../chat-images/entities/entities.js';
import { migrationDataSourceOptions } from '../database/data-source-options.js';
import { dataDirectory, runningServer, startEmbeddedPostgres } from './embedded-postgres.js';
import { migrateUp } from '../database/migrate.js';
import { createLogger } from '../observability/logger.js';
import { serve } from '../server.js';
import { runCommand, UsageError } from '../commands/run-command.js';
import { addSampleData, APPOINTMENT, DOCTOR, OUTSIDER, PATIENT } from './sample-data.js';

const DIRECTORY = '.local';
const DATABASE_DIRECTORY = resolve(DIRECTORY, 'postgres');
const STORAGE_DIRECTORY = resolve(DIRECTORY, 'storage');
const SECRETS_FILE = resolve(DIRECTORY, 'secrets.json');
const PID_FILE = resolve(DIRECTORY, 'running.pid');

const SAMPLE_PICTURE = 'test/images/phone-photo.jpg';
const LEFTOVER_TIMEOUT_MS = 10_000;
const TOKEN_LIFETIME_SECONDS = 30 * 24 * 3600;

type Secrets = { readonly database: string; readonly jwt: string; readonly storage: string };

await runCommand(async () => {
  const environment = readEnvironment();
  if (environment.NODE_ENV === 'production') {
    throw new UsageError(
      'Local mode is for development and does not start with NODE_ENV=production. Use npm start.',
    );
  }
  const { reset, urlSeconds } = readArguments();
  await stopLeftover();
  if (reset) await dropEverything();
  await mkdir(DIRECTORY, { recursive: true });
  const secrets = await loadSecrets();
  say('Starting PostgreSQL …');
  const postgres = await startEmbeddedPostgres({ directory: DATABASE_DIRECTORY, password: secrets.database });
  try {
    await writeFile(PID_FILE, String(process.pid));
    const settings = localSettings(
      urlSeconds === undefined ? environment : { ...environment, SIGNED_URL_EXPIRES_SECONDS: urlSeconds },
      await postgres.database('chat_images'),
      secrets,
    );
    const logger = createLogger(settings.logLevel, { pretty: true });
    await migrate(settings);
    await addSampleData(settings, logger);
    const { stopped } = await serve(settings, logger);
    say(welcome(settings, postgres.directory));
    await stopped;
  } finally {
    await postgres.stop();
    await rm(PID_FILE, { force: true });
  }
  say('Stopped. The pictures and the database stay; npm run local -- --reset drops them.');
});

function readArguments(): { reset: boolean; urlSeconds: string | undefined } {
  try {
    const { values } = parseArgs({
      options: { reset: { type: 'boolean', default: false }, 'url-seconds': { type: 'string' } },
    });
    return { reset: values.reset, urlSeconds: values['url-seconds'] };
  } catch {
    throw new UsageError(
      'Usage: npm run local [-- --reset --url-seconds 10]   (--reset drops the database and the pictures first; --url-seconds is how long a signed URL works)',
    );
  }
}

/**
 * Stops a database that still runs after its local mode was killed.
 *
 * @throws UsageError when the local mode of the database is still running
 */
async function stopLeftover(): Promise<void> {
  const secrets = await readSecrets();
  const server = secrets && (await runningServer(DATABASE_DIRECTORY, secrets.database));
  if (server === undefined) return;
  const holder = Number(await readFile(PID_FILE, 'utf8').catch(() => ''));
  if (holder > 0 && isAlive(holder)) {
    throw new UsageError(
      `Local mode runs already, as process ${holder}. Stop that one first, with Ctrl-C in its terminal.`,
    );
  }
  say(`Stopping the database (process ${server}) that a killed run has left running …`);
  process.kill(server, 'SIGINT');
  const deadline = Date.now() + LEFTOVER_TIMEOUT_MS;
  while (isAlive(server)) {
    if (Date.now() > deadline)
      throw new UsageError(`Process ${server}, a database in ${DIRECTORY}/, does not stop. Please stop it.`);
    await setTimeout(50);
  }
}

async function dropEverything(): Promise<void> {
  await rm(await dataDirectory(DATABASE_DIRECTORY), { recursive: true, force: true });
  await rm(DIRECTORY, { recursive: true, force: true });
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

async function readSecrets(): Promise<Secrets | undefined> {
  const text = await readFile(SECRETS_FILE, 'utf8').catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as Secrets);
}

/** Secrets of this folder, generated at the first start. */
async function loadSecrets(): Promise<Secrets> {
  const known = await readSecrets();
  if (known) return known;
  const secrets: Secrets = { database: newSecret(), jwt: newSecret(), storage: newSecret() };
  await writeFile(SECRETS_FILE, JSON.stringify(secrets), { mode: 0o600 });
  return secrets;
}

function newSecret(): string {
  return randomBytes(32).toString('hex');
}

function localSettings(environment: NodeJS.ProcessEnv, databaseUrl: string, secrets: Secrets): Settings {
  const port = environment.PORT ?? '3000';
  return loadSettings({
    NODE_ENV: 'development',
    PORT: port,
    LOG_LEVEL: environment.LOG_LEVEL,
    CORS_ORIGINS: environment.CORS_ORIGINS,
    TEXT_SESSIONS: environment.TEXT_SESSIONS,
    SIGNED_URL_EXPIRES_SECONDS: environment.SIGNED_URL_EXPIRES_SECONDS,
    DEMO_ENABLED: 'true',
    APP_URL: `http://localhost:${port}`,
    DATABASE_URL: databaseUrl,
    JWT_SECRET: secrets.jwt,
    STORAGE_DRIVER: 'local',
    LOCAL_STORAGE_DIR: STORAGE_DIRECTORY,
    LOCAL_STORAGE_SECRET: secrets.storage,
  });
}

async function migrate({ database }: Settings): Promise<void> {
  const dataSource = await new DataSource(migrationDataSourceOptions(database, ENTITIES)).initialize();
  try {
    await migrateUp(dataSource);
  } finally {
    await dataSource.destroy();
  }
}

function welcome({ appUrl, jwt }: Settings, directory: string): string {
  const token = (userId: number): string => signToken(userId, jwt, TOKEN_LIFETIME_SECONDS);
  return `
The image store is running.

  Demo chat    ${appUrl}/demo
  Swagger UI   ${appUrl}/api/docs
  API          ${appUrl}/api
  Database     ${directory}

Bearer tokens, for 30 days:

  patient (user ${PATIENT})    ${token(PATIENT)}

  doctor (user ${DOCTOR})     ${token(DOCTOR)}

  outsider (user ${OUTSIDER})   ${token(OUTSIDER)}

Upload a picture to appointment ${APPOINTMENT} as the patient, from another terminal in this folder:

  curl -F file=@${SAMPLE_PICTURE} -F appointment_id=${APPOINTMENT} -H "Authorization: Bearer ${token(PATIENT)}" ${appUrl}/api/upload/chat-image

Ctrl-C stops everything.
`;
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
