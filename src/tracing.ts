/*
 * Turns tracing on: `node --import ./dist/tracing.js dist/main.js`. Spans go to a collector by OTLP (JSON over HTTP), as the
 * variables of OpenTelemetry say. The packages of its SDK are optional.
 */
import { diag, DiagLogLevel, trace } from '@opentelemetry/api';
import type { Logger } from 'pino';
import { readEnvironment } from './config/settings.js';
import { systemCode } from './errors/system-code.js';
import { createLogger } from './observability/logger.js';
import { outsideTraces, sendSpansBy } from './observability/spans.js';

const PROTOCOL = 'http/json';

const environment = readEnvironment();
if (environment.OTEL_SDK_DISABLED?.toLowerCase() !== 'true') await startTracing();

async function startTracing(): Promise<void> {
  const protocol = environment.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL ?? environment.OTEL_EXPORTER_OTLP_PROTOCOL;
  if (protocol !== undefined && protocol !== PROTOCOL)
    refuse(
      `OTEL_EXPORTER_OTLP_PROTOCOL must be ${PROTOCOL}: collectors take it on the same port as http/protobuf.`,
    );
  const sdk = await loadSdk();
  const logger = createLogger('info');
  const tell = (message: string): void => logger.warn(message);
  // Mistakes in the variables are told at start. Later messages would come with each try to send.
  diag.setLogger({ error: tell, warn: tell, info: tell, debug: tell, verbose: tell }, DiagLogLevel.ERROR);
  const report = reportsOf(logger);
  class ReportingExporter extends sdk.OTLPTraceExporter {
    override export(
      ...[spans, done]: Parameters<InstanceType<typeof sdk.OTLPTraceExporter>['export']>
    ): void {
      super.export(spans, (result) => {
        report(result);
        done(result);
      });
    }
  }
  const provider = new sdk.BasicTracerProvider({
    resource: sdk.defaultResource().merge(sdk.detectResources({ detectors: [sdk.envDetector] })),
    spanProcessors: [new sdk.BatchSpanProcessor(new ReportingExporter())],
  });
  diag.disable();
  trace.setGlobalTracerProvider(provider);
  sendSpansBy(() => provider.shutdown());
}

async function loadSdk() {
  try {
    return {
      ...(await import('@opentelemetry/sdk-trace-base')),
      ...(await import('@opentelemetry/resources')),
      ...(await import('@opentelemetry/exporter-trace-otlp-http')),
    };
  } catch (error) {
    if (systemCode(error) !== 'ERR_MODULE_NOT_FOUND') throw error;
    return refuse(
      'Tracing needs the optional packages @opentelemetry/…: install them with `npm ci` without `--omit=optional`, or start without `--import ./dist/tracing.js`.',
    );
  }
}

/** Says once that the collector takes no spans, and once that it takes them again. */
function reportsOf(logger: Logger): (result: { readonly error?: Error }) => void {
  let failing = false;
  return ({ error }) => {
    const failed = error !== undefined;
    if (failed === failing) return;
    failing = failed;
    const reason = systemCode(error) ?? error?.message;
    outsideTraces(() => {
      if (failed) logger.warn({ reason }, 'spans are lost: the collector does not take them');
      else logger.info('the collector takes spans again');
    });
  };
}

function refuse(sentence: string): never {
  process.stderr.write(`${sentence}\n`);
  process.exit(1);
}
