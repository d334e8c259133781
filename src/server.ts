import { type DynamicModule, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { NextFunction, Request, Response } from 'express';
import type { Server } from 'node:http';
import { setImmediate, setTimeout as wait } from 'node:timers/promises';
import type { Logger } from 'pino';
import { REQUEST_ID_HEADER } from './http/answer-headers.js';
import { AppModule } from './app.module.js';
import { ImageProcesses } from './pictures/image-processes.js';
import { DATABASE_CLOCK, judgeClock, readDatabaseClock } from './check/clock.js';
import { refuseStorageMistakes } from './storage/storage-start.js';
import { StorageProvider } from './storage/storage-provider.js';
import { UpkeepSchedule, UpkeepScheduleModule } from './upkeep/upkeep-schedule.js';
import type { Settings } from './config/settings.js';
import { settingsWarnings } from './config/settings-warnings.js';
import { AppError } from './errors/app-error.js';
import { preparedStatement, RequestDatabase } from './database/request-database.js';
import { LeanExpressAdapter } from './http/lean-express.adapter.js';
import { NestLogger } from './observability/logger.js';
import { RequestLog } from './http/request-log.js';
import { serveSwaggerPage } from './http/swagger/swagger-page.js';
import { answerExpectations, readAwayUnreadBody } from './http/unread-bodies.js';
import { answerUnparsableRequests, lacksHost, readBrokenEscapesAsText } from './http/unparsable-requests.js';

/** What the app sends; browsers ask for leave to send it, also on a GET. */
const CORS_HEADERS = [
  'Authorization',
  'Content-Type',
  'Idempotency-Key',
  'X-App-Version',
  'X-Platform',
  REQUEST_ID_HEADER,
];

/** Longer than a load balancer keeps a connection, so that it never sends a request into one that is closing. */
const KEEP_ALIVE_TIMEOUT_MS = 65_000;

/** How long a whole request may take to arrive: ten megabytes at 85 kB/s. */
const REQUEST_TIMEOUT_MS = 120_000;

/** How long a connection with a request under way may stand still. */
const IDLE_TIMEOUT_MS = 60_000;

/** How much of SHUTDOWN_TIMEOUT_MS is kept, at most, for what comes after the last answer. */
const CLOSING_MS = 2000;

/** A terminal and npm pass the same Ctrl-C on, one after the other. */
const SAME_KEYPRESS_MS = 500;

/** The exit code of a process that SIGINT ends. */
const INTERRUPTED = 130;

/** How long the start waits for the folder of the local driver, which may be on a network drive. */
const LOCAL_STORAGE_WAIT_MS = 2000;

const CLOCK = preparedStatement('clock', DATABASE_CLOCK);

/** The application as a server: with what it does on its own, which no command that starts the application does. */
@Module({})
class ServerModule {
  static with(settings: Settings, logger: Logger): DynamicModule {
    return { module: ServerModule, imports: [AppModule.with(settings, logger), UpkeepScheduleModule] };
  }
}

/** Makes the whole application, ready to listen. */
export async function createApp(settings: Settings, logger: Logger): Promise<NestExpressApplication> {
  const module = ServerModule.with(settings, logger);
  const app = await NestFactory.create<NestExpressApplication>(module, new LeanExpressAdapter(), {
    logger: new NestLogger(logger),
    // No route reads a body that the framework would have to parse; an upload parses its own.
    bodyParser: false,
    abortOnError: false,
  });
  app.set('trust proxy', settings.trustProxy);
  app.disable('x-powered-by');
  // Answers are made for one request and never stored: hashing each for an ETag would serve nobody.
  app.disable('etag');
  const log = app.get(RequestLog);
  app.use((request: Request, response: Response, next: NextFunction) => {
    log.follow(request, response);
    readAwayUnreadBody(request, response);
    readBrokenEscapesAsText(request);
    next(lacksHost(request) ? new AppError('MALFORMED_REQUEST') : undefined);
  });
  if (settings.corsOrigins.length > 0) {
    app.enableCors({
      origin: [...settings.corsOrigins],
      methods: ['GET', 'HEAD', 'POST'],
      allowedHeaders: CORS_HEADERS,
      exposedHeaders: [REQUEST_ID_HEADER, 'Retry-After'],
      maxAge: 3600,
    });
  }
  if (settings.swaggerEnabled) serveSwaggerPage(app);
  const server: Server = app.getHttpServer();
  server.keepAliveTimeout = KEEP_ALIVE_TIMEOUT_MS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.setTimeout(IDLE_TIMEOUT_MS);
  answerExpectations(server);
  answerUnparsableRequests(server, log);
  return app;
}

/**
 * Serves until SIGTERM or SIGINT. Then readiness is false, and each answer the last on its connection. After the settings'
 * delay the port is closed, what is under way finishes within the settings' time, and the database's pool is closed. When
 * that is not done in time, the process exits with 1.
 *
 * @returns once it listens; `stopped` resolves when it has ended
 * @throws SettingsError when the storage's answer shows a mistake in the configuration
 */
export async function serve(settings: Settings, logger: Logger): Promise<{ stopped: Promise<void> }> {
  const app = await createApp(settings, logger);
  const stopped = firstSignal(logger).then(() => stop(app, settings, logger));
  // Asked while the routes are made, so that a storage that answers at once costs the start no time.
  const outcomes = await Promise.allSettled([
    refuseStorageMistakes(app.get(StorageProvider), logger, storageWaitMs(settings)),
    app.init(),
  ]);
  // Not beside the storage's answer, which has its time limit: they take all processors while they start.
  if (outcomes.every(({ status }) => status === 'fulfilled'))
    outcomes.push(...(await Promise.allSettled([app.get(ImageProcesses).start()])));
  for (const outcome of outcomes) {
    if (outcome.status === 'fulfilled') continue;
    await app.close();
    throw outcome.reason;
  }
  await tellOfWrongClock(app.get(RequestDatabase), logger);
  await app.listen(settings.port);
  logger.info(
    { port: settings.port, storage: settings.storage.driver, environment: settings.environment },
    'listening',
  );
  for (const { message } of settingsWarnings(settings)) logger.warn(message);
  if (settings.storage.driver === 'local') {
    logger.warn(
      'the local storage driver keeps the pictures on this machine only: not for more than one instance',
    );
  }
  return { stopped };
}

/** What decides on uploads goes by the database's clock; tokens and signed URLs go by this machine's. */
async function tellOfWrongClock(database: RequestDatabase, logger: Logger): Promise<void> {
  const reading = await readDatabaseClock(async () => {
    const [row] = await database.run<{ now: string }>(CLOCK, []);
    return Number(row?.now);
  });
  const { status, message } = judgeClock('database clock', 'the database', reading);
  if (status === 'wrong')
    logger.error(`${message}. Until then tokens are refused, and signed URLs end at the wrong time.`);
}

/** Resolves with the first SIGTERM or SIGINT. A person at a terminal who presses Ctrl-C again ends the process at once. */
function firstSignal(logger: Logger): Promise<void> {
  return new Promise((resolve) => {
    let since: number | undefined;
    const onSignal = (signal: NodeJS.Signals): void => {
      if (since === undefined) {
        since = performance.now();
        logger.info({ signal }, 'stopping');
        resolve();
      } else if (signal === 'SIGINT' && performance.now() - since > SAME_KEYPRESS_MS) {
        process.exit(INTERRUPTED);
      }
    };
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
  });
}

async function stop(
  app: NestExpressApplication,
  { shutdownDelayMs, shutdownTimeoutMs }: Settings,
  logger: Logger,
): Promise<void> {
  setTimeout(() => {
    logger.error('not stopped within SHUTDOWN_TIMEOUT_MS: what is under way is cut off');
    process.exit(1);
  }, shutdownDelayMs + shutdownTimeoutMs);
  const server: Server = app.getHttpServer();
  const adapter = app.getHttpAdapter();
  if (adapter instanceof LeanExpressAdapter) adapter.isStopping = true;
  app.get(UpkeepSchedule).stop();
  if (server.listening) await wait(shutdownDelayMs);
  // Requests that have arrived are read first: a connection counts as idle until its request is read, and would be reset.
  await setImmediate();
  // For a connection whose answer had begun before it could say that it is the last.
  server.keepAliveTimeout = 1;
  const cutOff = setTimeout(
    () => server.closeAllConnections(),
    shutdownTimeoutMs - Math.min(CLOSING_MS, shutdownTimeoutMs / 5),
  );
  await new Promise<void>((resolve) => server.close(() => resolve()));
  clearTimeout(cutOff);
  await app.close();
}

/** How long the start waits for the storage: as long as connecting to it may take. */
function storageWaitMs({ storage }: Settings): number {
  return storage.driver === 's3' ? storage.connectTimeoutMs : LOCAL_STORAGE_WAIT_MS;
}
