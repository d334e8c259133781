import { StreamableFile } from '@nestjs/common';
import { ExpressAdapter } from '@nestjs/platform-express';
import type { Express, Response } from 'express';
import { createServer, IncomingMessage, type RequestListener, ServerResponse } from 'node:http';
import { completeHead } from './answer-headers.js';
import { boundUnanswered } from './pipelined-requests.js';

/** Express without the work that it does for each request and that none of this service's needs. */
export class LeanExpressAdapter extends ExpressAdapter {
  /** Whether the process is about to end: then each answer is the last on its connection. */
  isStopping = false;

  /**
   * Express gives every request and response another prototype. V8 then shares no more hidden classes among them: each
   * property that is added makes a new one, and nothing that reads them stays fast, which costs most of the time of a
   * request. So the server makes them with the prototypes that Express wants, and setting these again does nothing. Of the
   * application's options none is about the server.
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
      // A request without a host is refused by the application, as Node's refusal has no body.
      { IncomingMessage: Request, ServerResponse: Response, requireHostHeader: false },
      boundUnanswered(express as unknown as RequestListener),
    );
    this.httpServer = server;
  }

  /** An answer of JSON is written at once, without an ETag to compare, a media type to complete, a length to leave out. */
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
    // What has a byte a character is ASCII, and need not be looked through for what is not.
    return response.end(text, length === text.length ? 'latin1' : 'utf8');
  }
}

function isJson(body: unknown): body is object {
  return (
    typeof body === 'object' && body !== null && !(body instanceof StreamableFile) && !(body instanceof Error)
  );
}
