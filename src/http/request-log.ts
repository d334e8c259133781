import { Inject, Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { randomUUID } from 'node:crypto';
import type { Request, Response } from 'express';
import type { Logger } from 'pino';
import { clientNetwork } from '../rate-limits/client-network.js';
import { FloodSummary } from '../observability/flood-summary.js';
import { LOGGER } from '../observability/logger.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { beginRequest, endRequest, type RequestTrace, traceIdOf } from '../observability/spans.js';

/** The status in the log when the client left before its response: the number that nginx uses. */
const CLIENT_GONE = 499;

/** The form of a proxy's request id that is kept. */
const REQUEST_ID = /^[\w-]{8,64}$/;

type RequestLine = {
  readonly requestId: string;
  readonly traceId?: string | undefined;
  readonly userId?: number | undefined;
  readonly network: string;
  readonly method?: string;
  readonly route: string;
  readonly imageId?: number | undefined;
  readonly imageIds?: readonly number[] | undefined;
  readonly status: number;
  readonly ms?: number;
  /** Why Node could not read the request. */
  readonly code?: string | undefined;
};

/** Writes a line for each request, and counts it. Floods of the same refusal or failure are summed up, successes never are. */
@Injectable()
export class RequestLog implements OnApplicationShutdown {
  private readonly refusals: FloodSummary;
  private readonly failures: FloodSummary;

  constructor(
    @Inject(LOGGER) private readonly logger: Logger,
    @Inject(METRICS) private readonly metrics?: Metrics,
  ) {
    this.refusals = new FloodSummary(logger);
    this.failures = new FloodSummary(logger);
  }

  /**
   * Gives a request its id, and logs one line when the response has left or the client has gone: id, user, the client's
   * network, method, route, image, status and milliseconds. The route is the pattern, never the URL: paths name images, and
   * queries hold signatures.
   *
   * @returns the request's trace, where it has one
   */
  follow(request: Request, response: Response): RequestTrace | undefined {
    const started = performance.now();
    const given = request.headers['x-request-id'];
    const requestId = typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    response.requestId = requestId;
    const requestTrace = beginRequest(request.method, request.headers);
    // Read now: a closed connection has no address.
    const { ip } = request;
    response.on('close', () => {
      const route = (request.route as { path?: string } | undefined)?.path;
      const ended = {
        requestId,
        traceId: requestTrace && traceIdOf(requestTrace),
        userId: request.user?.id,
        network: clientNetwork({ ip }),
        method: request.method,
        route: route ?? 'none',
        imageId: request.imageId,
        imageIds: request.imageIds,
        // A proxy closes its connection when it has the whole response, also during an upload that was refused.
        status: response.writableEnded || response.answered ? response.statusCode : CLIENT_GONE,
        ms: Math.round((performance.now() - started) * 10) / 10,
      } satisfies RequestLine;
      const { errorCode } = response;
      this.write(ended, errorCode);
      if (requestTrace) endRequest(requestTrace, { ...ended, route, errorCode });
    });
    return requestTrace;
  }

  /** @param errorCode the code of the error catalogue in the response, if any */
  write(line: RequestLine, errorCode?: string): void {
    const { status, route, network, userId, method = 'other', ms = 0 } = line;
    this.metrics?.requestEnded({ method, route, status, errorCode, seconds: ms / 1000 });
    if (status < 400) this.logger.info(line, 'request');
    // Failures of the service are of one kind, for all users.
    else if (status >= 500) {
      if (this.failures.admits({ status, route })) this.logger.error(line, 'request');
    } else if (this.refusals.admits({ status, route, network, userId })) this.logger.info(line, 'request');
  }

  onApplicationShutdown(): void {
    this.refusals.flush();
    this.failures.flush();
  }
}
