import { randomUUID } from 'node:crypto';
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { AppError } from './errors/app-error.js';
import { ErrorBodyDto } from './errors/error-body.dto.js';

/** Answers what is no HTTP, or has headers over Node's limits: such a request never reaches Express. */
export function answerUnparsableRequests(server: Server): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const requestId = randomUUID();
    const body = JSON.stringify(new ErrorBodyDto(new AppError('VALIDATION_FAILED'), requestId));
    socket.end(
      [
        'HTTP/1.1 422 Unprocessable Entity',
        'Content-Type: application/json; charset=utf-8',
        `Content-Length: ${Buffer.byteLength(body)}`,
        `X-Request-Id: ${requestId}`,
        'Cache-Control: no-store',
        'Connection: close',
        '',
        body,
      ].join('\r\n'),
    );
  });
}
