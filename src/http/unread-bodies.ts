import type { Request, Response } from 'express';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { LARGEST_FILE_MIB } from '../config/settings.js';
import { MAX_FORM_OVERHEAD_BYTES } from '../uploads/upload-limits.js';

declare global {
  // Express' types are extended by merging.
  namespace Express {
    interface Response {
      /** The whole response is written. Only its end waits for the rest of the request's body. */
      answered?: boolean;
    }
  }
}

/** Limits for the rest of a body after the response. A client that sends more, or for longer, is cut off. */
const MAX_UNREAD_BYTES = 2 * (LARGEST_FILE_MIB * 1024 * 1024 + MAX_FORM_OVERHEAD_BYTES);
const MAX_UNREAD_MS = 30_000;

/** The limit where the response closes the connection: enough for bytes that are on their way. */
const MAX_UNREAD_MS_AT_THE_END = 1000;

/**
 * Reads and drops the rest of a body after an early response, such as the refusal of an upload. Many clients look at the
 * response only after they have sent everything. A socket that is closed with unread data is reset, and the response can be
 * lost. So the response is written at once, and ends when the rest of the body has been read, within limits.
 */
export function readAwayUnreadBody(request: Request, response: Response): void {
  if (!hasBody(request)) return;
  const end = response.end.bind(response);
  response.end = ((chunk?: Buffer | string, encoding?: BufferEncoding): Response => {
    if (request.complete || request.destroyed) return end(chunk, encoding ?? 'utf8');
    response.write(chunk ?? '', encoding ?? 'utf8');
    response.answered = true;
    readAway(request, response.getHeader('Connection') === 'close', () => end());
    return response;
  }) as Response['end'];
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

function readAway(request: IncomingMessage, closing: boolean, done: () => void): void {
  const { socket } = request;
  const timer = closing
    ? setTimeout(() => finish(), MAX_UNREAD_MS_AT_THE_END)
    : setTimeout(() => socket.destroy(), MAX_UNREAD_MS);
  let bytes = 0;
  const count = (chunk: Buffer): void => {
    bytes += chunk.length;
    if (bytes > MAX_UNREAD_BYTES) socket.destroy();
  };
  const finish = (): void => {
    request.off('end', finish).off('close', finish).off('data', count);
    clearTimeout(timer);
    done();
  };
  request.once('end', finish).once('close', finish).on('data', count);
  request.resume();
}

/**
 * Lets the application, instead of Node, answer `Expect: 100-continue`: only a user who may upload is told to send the body. A
 * client that is refused before may send the body or not, so the response closes its connection.
 */
export function answerExpectations(server: Server): void {
  server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    const writeContinue = response.writeContinue.bind(response);
    response.shouldKeepAlive = false;
    response.writeContinue = (...args): void => {
      response.shouldKeepAlive = true;
      writeContinue(...args);
    };
    server.emit('request', request, response);
  });
  // Other expectations are unknown here, and may be ignored (RFC 9110, 10.1.1).
  server.on('checkExpectation', (request, response) => server.emit('request', request, response));
}
