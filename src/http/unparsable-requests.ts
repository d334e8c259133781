import { randomUUID } from 'node:crypto';
import type { Request } from 'express';
import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { DEFAULT_HEADERS, REQUEST_ID_HEADER } from './answer-headers.js';
import { AppError, type ErrorCode } from '../errors/app-error.js';
import { ErrorBodyDto } from '../errors/error-body.dto.js';
import type { RequestLog } from './request-log.js';
import { clientNetwork } from '../rate-limits/client-network.js';

/** What Node's errors are in the catalogue; all others are a MALFORMED_REQUEST. */
const CODE_BY_NODE_CODE: Readonly<Record<string, ErrorCode>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 'REQUEST_TIMEOUT',
  HPE_HEADER_OVERFLOW: 'HEADERS_TOO_LARGE',
};

/**
 * Answers requests that never reach Express: what is no HTTP (400), what did not arrive in time (408), and headers over
 * Node's limit (431). The connection ends with the answer.
 *
 * @param server whose requests all come as `request` events, before or after this call
 */
export function answerUnparsableRequests(server: Server, log: RequestLog): void {
  const openAnswers = new OpenAnswers(server);
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const underWay = openAnswers.first(socket);
    // Answers to earlier requests of this connection are under way: they are finished, and nothing is written into them.
    if (underWay?.req.complete) {
      endBehindAnswers(socket, openAnswers);
      return;
    }
    // A body that broke off, or is broken, never ends: nobody may wait for the rest of it.
    if (underWay?.headersSent) {
      socket.destroySoon();
      return;
    }
    const refusal = new AppError(CODE_BY_NODE_CODE[error.code ?? ''] ?? 'MALFORMED_REQUEST');
    const requestId = randomUUID();
    // The address of the proxy, where there is one: the headers that name the client's could not be read.
    const network = clientNetwork({ ip: socket.remoteAddress });
    log.write({ requestId, network, route: 'none', status: refusal.status, code: error.code });
    socket.end(lastAnswer(refusal, requestId));
    if (underWay) socket.destroySoon();
  });
}

/** Writes an answer in bytes, for a connection that has no response of Node's to write it with. */
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

/** Ends a connection when the requests that have arrived whole on it are answered. */
function endBehindAnswers(socket: Socket, openAnswers: OpenAnswers): void {
  const answer = openAnswers.first(socket);
  if (answer?.req.complete) answer.once('close', () => endBehindAnswers(socket, openAnswers));
  else socket.destroySoon();
}

type Answer = ServerResponse;

/** The answers of each connection that are not written to their end, in the order of their requests. */
class OpenAnswers {
  private readonly ofSockets = new WeakMap<Socket, Set<Answer>>();

  constructor(server: Server) {
    // Before Express, which may answer at once.
    server.prependListener('request', ({ socket }: IncomingMessage, answer: Answer) => {
      const open = this.ofSockets.get(socket) ?? new Set();
      this.ofSockets.set(socket, open.add(answer));
      // An answer that is cut off takes its connection with it, so this is the only end that another answer can follow.
      answer.once('finish', () => open.delete(answer));
    });
  }

  /** The answer that is being written, or is the next to be. */
  first(socket: Socket): Answer | undefined {
    const [answer] = this.ofSockets.get(socket) ?? [];
    return answer;
  }
}

/** Whether a request lacks the host that HTTP/1.1 demands. Node's own answer to it would be without a body. */
export function lacksHost({ httpVersion, headers }: IncomingMessage): boolean {
  return httpVersion === '1.1' && headers.host === undefined;
}

/**
 * Lets an address with broken escapes (`/api/chat-images/%zz/…`) go the way of all others, to the guard and to a 404:
 * its escapes are taken as the text they are. Express would refuse it before anybody is asked for a token.
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
