import { StreamableFile } from '@nestjs/common';
import { ExpressAdapter } from '@nestjs/platform-express';
import type { Express, Response } from 'express';
import { createServer, IncomingMessage, type RequestListener, ServerResponse } from 'node:http';
import { completeHead } from './answer-headers.js';
import { boundUnanswered } from './pipelined-requests.js';

/** Express without the per-request work that this service does not need. */
export class LeanExpressAdapter extends ExpressAdapter {
  /** Whether the process is about to end: then each response is the last on its connection. */
  isStopping = false;

  /**
   * Express changes the prototype of every request and response. V8 on Node 20 then makes new hidden classes for each of
   * them, and property access becomes slow. So the server creates both with the prototypes that Express would set. The
   * application has no options for the server. `docs/decisions/http-adapter.md` has the figures.
   */
  override initHttpServer(): void {
    const express: Express = this.getInstance();
    const isLast = (): boolean => this.isStopping || !server.listening;
    class Request extends IncomingMessage {}
    class Response<R extends IncomingMessage = IncomingMessage> extends ServerResponse<R> {
      override writeHead(status: number, ...given: unknown[]): this {
        if (isLast()) this.shouldKeepAlive = false;
        return super.writeHead(status, ...completeHead(this, given));
      }
    }
    Object.setPrototypeOf(Request.prototype, express.request);
    Object.setPrototypeOf(Response.prototype, express.response);
    express.request = Request.prototype as Express['request'];
    express.response = Response.prototype as Express['response'];
    const server = createServer(
      // The application refuses a request without `Host`: Node's own response would have no body.
      { IncomingMessage: Request, ServerResponse: Response, requireHostHeader: false },
      boundUnanswered(express as unknown as RequestListener),
    );
    this.httpServer = server;
  }

  /** Writes a JSON response in one piece: there is no ETag, and media type and length are known. */
  override reply(response: Response, body: unknown, statusCode?: number): unknown {
    if (!isJson(body)) return super.reply(response, body, statusCode);
    const text = JSON.stringify(body);
    const length = Buffer.byteLength(text);
    response.writeHead(statusCode ?? response.statusCode, [
      'Content-Type',
      'application/json; charset=utf-8',
      'Content-Length',
      String(length),
    ]);
    // One byte a character: the text is ASCII, and Node can write it without encoding it.
    return response.end(text, length === text.length ? 'latin1' : 'utf8');
  }
}

function isJson(body: unknown): body is object {
  return (
    typeof body === 'object' && body !== null && !(body instanceof StreamableFile) && !(body instanceof Error)
  );
}
