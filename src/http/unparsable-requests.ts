import { randomUUID } from 'node:crypto';
import type { Request } from 'express';
import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { DEFAULT_HEADERS, REQUEST_ID_HEADER } from './answer-headers.js';
import { AppError } from '../errors/app-error.js';
import { ErrorBodyDto } from '../errors/error-body.dto.js';
import type { RequestLog } from './request-log.js';
import { clientNetwork } from '../rate-limits/client-network.js';

/** Node keeps the answer that is being written here, and puts the next in its place before it says that one is closed. */
type ServedSocket = Socket & { _httpMessage?: ServerResponse | null };

/** Answers what is no HTTP, or has headers over Node's limits: such a request never reaches Express. */
export function answerUnparsableRequests(server: Server, log: RequestLog): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket: ServedSocket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const underWay = socket._httpMessage;
    // Answers to earlier requests of this connection are under way: they are finished, and nothing is written into them.
    if (underWay?.req.complete) {
      endBehindAnswers(socket);
      return;
    }
    // A body that broke off, or is broken, never ends: nobody may wait for the rest of it.
    if (underWay?.headersSent) {
      socket.destroySoon();
      return;
    }
    const requestId = randomUUID();
    const body = JSON.stringify(new ErrorBodyDto(new AppError('VALIDATION_FAILED'), requestId));
    // The address of the proxy, where there is one: the headers that name the client's could not be read.
    const network = clientNetwork({ ip: socket.remoteAddress });
    log.write({ requestId, network, route: 'none', status: 422, code: error.code });
    socket.end(
      [
        'HTTP/1.1 422 Unprocessable Entity',
        'Content-Type: application/json; charset=utf-8',
        `Content-Length: ${Buffer.byteLength(body)}`,
        `${REQUEST_ID_HEADER}: ${requestId}`,
        `Date: ${new Date().toUTCString()}`,
        ...DEFAULT_HEADERS.map(([name, value]) => `${name}: ${value}`),
        'Connection: close',
        '',
        body,
      ].join('\r\n'),
    );
    if (underWay) socket.destroySoon();
  });
}

/** Ends a connection when the requests that have arrived whole on it are answered. */
function endBehindAnswers(socket: ServedSocket): void {
  const answer = socket._httpMessage;
  if (answer?.req.complete) answer.once('close', () => endBehindAnswers(socket));
  else socket.destroySoon();
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
