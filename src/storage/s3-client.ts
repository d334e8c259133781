import { S3Client } from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { Agent as HttpAgent } from 'node:http';
import type { Agent as HttpsAgent } from 'node:https';
import type { S3Settings } from '../config/settings.js';
import { systemCode } from '../errors/system-code.js';
import type { Metrics } from '../observability/metrics.js';
import { traceHeaders } from '../observability/spans.js';
import { storageFailureOf } from './storage-failure.js';

/** The most connections to the storage. Further requests wait for one of them. */
const MAX_SOCKETS = 64;

type ConnectionSettings = Pick<
  S3Settings,
  | 'accessKeyId'
  | 'secretAccessKey'
  | 'endpoint'
  | 'region'
  | 'connectTimeoutMs'
  | 'requestTimeoutMs'
  | 'maxAttempts'
>;

/** Operations by method. A GET may also be a list. */
const OPERATIONS: Readonly<Record<string, string>> = {
  PUT: 'put',
  GET: 'get',
  HEAD: 'head',
  DELETE: 'delete',
};

type Handled = Parameters<NodeHttpHandler['handle']>;

/** A client of an S3 server, and the connections that it uses. */
export function createS3Client(
  settings: ConnectionSettings,
  metrics?: Metrics,
): {
  readonly client: S3Client;
  readonly requestHandler: NodeHttpHandler;
} {
  const agent = { keepAlive: true, maxSockets: MAX_SOCKETS } satisfies ConstructorParameters<
    typeof HttpAgent
  >[0] &
    ConstructorParameters<typeof HttpsAgent>[0];
  const requestHandler = new (metrics ? countedHandler(metrics) : TracedHandler)({
    connectionTimeout: settings.connectTimeoutMs,
    requestTimeout: settings.requestTimeoutMs,
    socketTimeout: settings.requestTimeoutMs,
    throwOnRequestTimeout: true,
    httpAgent: agent,
    httpsAgent: agent,
  });
  const client = new S3Client({
    region: settings.region,
    credentials: { accessKeyId: settings.accessKeyId, secretAccessKey: settings.secretAccessKey },
    // The SDK's default checksums of a stream get a 411. Spaces ignores them.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    endpoint: settings.endpoint,
    forcePathStyle: true,
    maxAttempts: settings.maxAttempts,
    requestHandler,
  });
  return { client, requestHandler };
}

/** A handler that names the trace in each request. The request is signed before: a proxy may add its own part to the trace. */
class TracedHandler extends NodeHttpHandler {
  override handle(...[request, options]: Handled): ReturnType<NodeHttpHandler['handle']> {
    Object.assign(request.headers, traceHeaders());
    return super.handle(request, options);
  }
}

/** A handler that counts each try of a request. */
function countedHandler(metrics: NonNullable<Metrics>): typeof TracedHandler {
  return class extends TracedHandler {
    override async handle(...given: Handled): ReturnType<NodeHttpHandler['handle']> {
      const [{ method, query }] = given;
      const operation = 'list-type' in query ? 'list' : (OPERATIONS[method] ?? 'other');
      const started = performance.now();
      try {
        const answer = await super.handle(...given);
        const { statusCode } = answer.response;
        metrics.storageAnswered(operation, String(statusCode), performance.now() - started);
        return answer;
      } catch (error) {
        const failure = storageFailureOf({ status: undefined, code: systemCode(error) });
        metrics.storageAnswered(operation, failure, performance.now() - started);
        throw error;
      }
    }
  };
}
