import type { Request, Response } from 'express';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { MAX_FILE_BYTES, MAX_FORM_OVERHEAD_BYTES } from '../uploads/upload-form.js';

declare global {
  // Express' types are extended by merging.
  namespace Express {
    interface Response {
      /** The whole answer is written; only its end waits for the rest of the request's body. */
      answered?: boolean;
    }
  }
}

/** A client that sends more, or for longer, after it was answered is cut off. */
const MAX_UNREAD_BYTES = 2 * (MAX_FILE_BYTES + MAX_FORM_OVERHEAD_BYTES);
const MAX_UNREAD_MS = 30_000;

/** The same where the answer itself says that its connection ends: enough for what is on its way. */
const MAX_UNREAD_MS_AT_THE_END = 1000;

/**
 * Ends a request cleanly that is answered before its body was read, as every refusal of an upload is. Many clients
 * look at the answer only after they have sent all, and a connection that is closed on unread data is reset, with the
 * answer lost on its way. So the whole answer is sent at once, but it ends only when what is left of the body has been
 * read and thrown away, within limits.
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
 * Lets the application, instead of Node, answer `Expect: 100-continue`: only who may upload is told to send the body.
 * A client that is refused without having been told may or may not send it, so its connection ends with the answer.
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
  // What else a client may expect is not known here, and may be ignored (RFC 9110, 10.1.1).
  server.on('checkExpectation', (request, response) => server.emit('request', request, response));
}
