import { randomUUID } from 'node:crypto';
import type { Request } from 'express';
import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { DEFAULT_HEADERS, REQUEST_ID_HEADER } from './answer-headers.js';
import { AppError, type ErrorCode } from '../errors/app-error.js';
import { ErrorBodyDto } from '../errors/error-body.dto.js';
import type { RequestLog } from './request-log.js';
import { clientNetwork } from '../rate-limits/client-network.js';

/** Node's errors in the catalogue. All others are a MALFORMED_REQUEST. */
const CODE_BY_NODE_CODE: Readonly<Record<string, ErrorCode>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 'REQUEST_TIMEOUT',
  HPE_HEADER_OVERFLOW: 'HEADERS_TOO_LARGE',
};

/**
 * Answers requests that never reach Express: no valid HTTP (400), not complete in time (408), and headers over Node's limit
 * (431). The response closes the connection.
 */
export function answerUnparsableRequests(server: Server, log: RequestLog): void {
  const openAnswers = new OpenAnswers(server);
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const underWay = openAnswers.first(socket);
    // Responses to earlier requests of this connection are under way. They are finished, and nothing is written into them.
    if (underWay?.req.complete) {
      endBehindAnswers(socket, openAnswers);
      return;
    }
    // A broken body never ends, so nothing may wait for its end.
    if (underWay?.headersSent) {
      socket.destroySoon();
      return;
    }
    const refusal = new AppError(CODE_BY_NODE_CODE[error.code ?? ''] ?? 'MALFORMED_REQUEST');
    const requestId = randomUUID();
    // The address may be a proxy's: the headers with the client's address could not be read.
    const network = clientNetwork({ ip: socket.remoteAddress });
    const line = { requestId, network, route: 'none', status: refusal.status, code: error.code };
    log.write(line, refusal.code);
    socket.end(lastAnswer(refusal, requestId));
    if (underWay) socket.destroySoon();
  });
}

/** A response as text, for a connection without a ServerResponse. */
function lastAnswer(refusal: AppError, requestId: string): string {
  const body = JSON.stringify(new ErrorBodyDto(refusal, requestId));
  return [
    `HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status] ?? ''}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    `${REQUEST_ID_HEADER}: ${requestId}`,
    `Date: ${new Date().toUTCString()}`,
    ...DEFAULT_HEADERS.map(([name, value]) => `${name}: ${value}`),
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}

/** Ends a connection after the responses to its complete requests. */
function endBehindAnswers(socket: Socket, openAnswers: OpenAnswers): void {
  const answer = openAnswers.first(socket);
  if (answer?.req.complete) answer.once('close', () => endBehindAnswers(socket, openAnswers));
  else socket.destroySoon();
}

type Answer = ServerResponse;

/** The open responses of each connection, in the order of their requests. */
class OpenAnswers {
  private readonly ofSockets = new WeakMap<Socket, Set<Answer>>();

  constructor(server: Server) {
    // First, because Express may respond at once.
    server.prependListener('request', ({ socket }: IncomingMessage, answer: Answer) => {
      const open = this.ofSockets.get(socket) ?? new Set();
      this.ofSockets.set(socket, open.add(answer));
      // A response that is cut off closes its connection, so `finish` is the only end before another response.
      answer.once('finish', () => open.delete(answer));
    });
  }

  /** The response that is being written, or will be next. */
  first(socket: Socket): Answer | undefined {
    const [answer] = this.ofSockets.get(socket) ?? [];
    return answer;
  }
}

/** Whether a request lacks the header `Host`, which HTTP/1.1 requires. Node's own response would have no body. */
export function lacksHost({ httpVersion, headers }: IncomingMessage): boolean {
  return httpVersion === '1.1' && headers.host === undefined;
}

/**
 * Takes broken escapes of a path (`/api/chat-images/%zz/…`) as plain text, so that the request reaches the guards and gets a
 * 404. Express would refuse the path before the guards ask for a token.
 */
export function readBrokenEscapesAsText(request: Request): void {
  if (!request.url.includes('%')) return;
  const [path = '', ...query] = request.url.split('?');
  if (!isDecodable(path)) request.url = [path.replaceAll('%', '%25'), ...query].join('?');
}

function isDecodable(path: string): boolean {
  try {
    decodeURIComponent(path);
    return true;
  } catch {
    return false;
  }
}
