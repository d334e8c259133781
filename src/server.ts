import { type DynamicModule, Module, type Type } from '@nestjs/common';
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
import { preparedStatement } from './database/prepared-statement.js';
import { RequestDatabase } from './database/request-database.js';
import { LeanExpressAdapter } from './http/lean-express.adapter.js';
import { NestLogger } from './observability/logger.js';
import type { Metrics } from './observability/metrics.js';
import { flushSpans, goOn } from './observability/spans.js';
import { RequestLog } from './http/request-log.js';
import { serveSwaggerPage } from './http/swagger/swagger-page.js';
import { answerExpectations, readAwayUnreadBody } from './http/unread-bodies.js';
import { answerUnparsableRequests, lacksHost, readBrokenEscapesAsText } from './http/unparsable-requests.js';

/** Request headers that the app sends. Browsers ask for permission in a CORS preflight, even for GET. */
const CORS_HEADERS = [
  'Authorization',
  'Content-Type',
  'Idempotency-Key',
  'X-App-Version',
  'X-Platform',
  REQUEST_ID_HEADER,
];

/** Longer than the idle timeout of a load balancer, so that it never sends a request on a closing connection. */
const KEEP_ALIVE_TIMEOUT_MS = 65_000;

/** Maximum time to receive a whole request: ten megabytes at 85 kB/s. */
const REQUEST_TIMEOUT_MS = 120_000;

/** Maximum idle time of a connection during a request. */
const IDLE_TIMEOUT_MS = 60_000;

/** Maximum part of SHUTDOWN_TIMEOUT_MS reserved for closing the application after the last response. */
const CLOSING_MS = 2000;

/** The terminal and npm both send SIGINT for one Ctrl-C, within this time. */
const SAME_KEYPRESS_MS = 500;

/** Exit code after SIGINT. */
const INTERRUPTED = 130;

/** Maximum wait at start for the folder of the local driver, which may be on a network drive. */
const LOCAL_STORAGE_WAIT_MS = 2000;

const CLOCK = preparedStatement('clock', DATABASE_CLOCK);

/** The application as a server: with scheduled upkeep, which commands do not run. */
@Module({})
class ServerModule {
  static with(settings: Settings, logger: Logger, metrics: Metrics, others: readonly Type[]): DynamicModule {
    return {
      module: ServerModule,
      imports: [AppModule.with(settings, logger, metrics), UpkeepScheduleModule, ...others],
    };
  }
}

/** Creates the application, ready to listen. */
export async function createApp(settings: Settings, logger: Logger): Promise<NestExpressApplication> {
  // Not in the image of production.
  const demo = settings.demoEnabled ? await import('./dev/demo/demo.module.js') : undefined;
  // Without METRICS_PORT the library is not loaded.
  const metrics = settings.metrics && {
    ...(await import('./observability/prometheus-metrics.js')),
    ...(await import('./observability/metrics-server.js')),
  };
  const module = ServerModule.with(settings, logger, metrics && new metrics.PrometheusMetrics(), [
    ...(demo ? [demo.DemoModule] : []),
    ...(metrics ? [metrics.MetricsServerModule] : []),
  ]);
  const app = await NestFactory.create<NestExpressApplication>(module, new LeanExpressAdapter(), {
    logger: new NestLogger(logger),
    // No route needs a parsed body. The upload route parses its own multipart body.
    bodyParser: false,
    abortOnError: false,
  });
  app.set('trust proxy', settings.trustProxy);
  app.disable('x-powered-by');
  // Responses are not cached by clients, so an ETag would be useless work.
  app.disable('etag');
  const log = app.get(RequestLog);
  app.use((request: Request, response: Response, next: NextFunction) => {
    const requestTrace = log.follow(request, response);
    readAwayUnreadBody(request, response);
    readBrokenEscapesAsText(request);
    goOn(requestTrace, next, lacksHost(request) ? new AppError('MALFORMED_REQUEST') : undefined);
  });
  if (settings.corsOrigins.length > 0) {
    app.enableCors({
      origin: [...settings.corsOrigins],
      methods: ['GET', 'HEAD', 'POST'],
      allowedHeaders: CORS_HEADERS,
      exposedHeaders: ['Date', REQUEST_ID_HEADER, 'Retry-After'],
      maxAge: 3600,
    });
  }
  if (settings.swaggerEnabled) serveSwaggerPage(app);
  demo?.serveDemoPage(app);
  const server: Server = app.getHttpServer();
  server.keepAliveTimeout = KEEP_ALIVE_TIMEOUT_MS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.setTimeout(IDLE_TIMEOUT_MS);
  answerExpectations(server);
  answerUnparsableRequests(server, log);
  return app;
}

/**
 * Serves until SIGTERM or SIGINT. Shutdown steps:
 * 1. Readiness is false, and each response closes its connection.
 * 2. After SHUTDOWN_DELAY_MS the port is closed.
 * 3. Running requests finish within SHUTDOWN_TIMEOUT_MS.
 * 4. The connection pool and the port of the metrics are closed, and the spans that wait are sent.
 * After the timeout the process exits with 1.
 *
 * @returns when the server listens; `stopped` resolves when the server has stopped
 * @throws SettingsError when the storage's response shows a mistake in the configuration
 */
export async function serve(settings: Settings, logger: Logger): Promise<{ stopped: Promise<void> }> {
  const app = await createApp(settings, logger);
  const stopped = firstSignal(logger).then(() => stop(app, settings, logger));
  // Check the storage while NestJS sets up the routes, so that a fast storage does not delay the start.
  const outcomes = await Promise.allSettled([
    refuseStorageMistakes(app.get(StorageProvider), logger, storageWaitMs(settings)),
    app.init(),
  ]);
  // Start the decoding processes after the storage check: their start uses all processors, and the check has a timeout.
  if (outcomes.every(({ status }) => status === 'fulfilled'))
    outcomes.push(...(await Promise.allSettled([app.get(ImageProcesses).start()])));
  for (const outcome of outcomes) {
    if (outcome.status === 'fulfilled') continue;
    await app.close();
    throw outcome.reason;
  }
  await logWrongClock(app.get(RequestDatabase), logger);
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

/** Logs a wrong clock. Uploads use the database's clock; tokens and signed URLs use this machine's clock. */
async function logWrongClock(database: RequestDatabase, logger: Logger): Promise<void> {
  const reading = await readDatabaseClock(async () => {
    const [row] = await database.run<{ now: string }>(CLOCK, []);
    return Number(row?.now);
  });
  const { status, message } = judgeClock('database clock', 'the database', reading);
  if (status === 'wrong')
    logger.error(`${message}. Until then tokens are refused, and signed URLs end at the wrong time.`);
}

/** Resolves at the first SIGTERM or SIGINT. A second Ctrl-C ends the process at once. */
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
    logger.error('not stopped within SHUTDOWN_TIMEOUT_MS: running requests are cut off');
    process.exit(1);
  }, shutdownDelayMs + shutdownTimeoutMs);
  const server: Server = app.getHttpServer();
  const adapter = app.getHttpAdapter();
  if (adapter instanceof LeanExpressAdapter) adapter.isStopping = true;
  app.get(UpkeepSchedule).stop();
  if (server.listening) await wait(shutdownDelayMs);
  // First read requests that have arrived: a connection counts as idle until then, and would be reset.
  await setImmediate();
  // For connections whose response began before the shutdown, without `Connection: close`.
  server.keepAliveTimeout = 1;
  const closingMs = Math.min(CLOSING_MS, shutdownTimeoutMs / 5);
  const cutOff = setTimeout(() => server.closeAllConnections(), shutdownTimeoutMs - closingMs);
  await new Promise<void>((resolve) => server.close(() => resolve()));
  clearTimeout(cutOff);
  await Promise.all([app.close(), Promise.race([flushSpans(), wait(closingMs / 2)])]);
}

/** Maximum wait at start for the storage: its connect timeout. */
function storageWaitMs({ storage }: Settings): number {
  return storage.driver === 's3' ? storage.connectTimeoutMs : LOCAL_STORAGE_WAIT_MS;
}
