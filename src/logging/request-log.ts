import { randomUUID } from 'node:crypto';
import type { Request, Response } from 'express';
import type { Logger } from 'pino';

/** What stands for the status in the log when the client left before its answer; nginx' number for it. */
const CLIENT_GONE = 499;

/** An id from a proxy is kept when it is nothing but an id. */
const REQUEST_ID = /^[\w-]{8,64}$/;

/**
 * Names a request, and logs one line when its answer has left or its client has gone: id, user, method, route, status and
 * milliseconds. The route is the pattern, never the URL: paths name images, and queries hold signatures.
 */
export function logRequest(request: Request, response: Response, logger: Logger): void {
  const started = performance.now();
  const given = request.headers['x-request-id'];
  const requestId = typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
  response.requestId = requestId;
  response.on('close', () => {
    const line = {
      requestId,
      userId: request.user?.id,
      method: request.method,
      route: (request.route as { path?: string } | undefined)?.path ?? 'none',
      // A proxy closes its connection as soon as it has the whole answer, also where that is a refusal of an upload.
      status: response.writableEnded || response.answered ? response.statusCode : CLIENT_GONE,
      ms: Math.round((performance.now() - started) * 10) / 10,
    };
    if (line.status >= 500) logger.error(line, 'request');
    else logger.info(line, 'request');
  });
}
