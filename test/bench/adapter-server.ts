/*
 * This service on the usual ExpressAdapter. WITHOUT=prototypes keeps the rest of LeanExpressAdapter. WITHOUT=all keeps only
 * the required response headers.
 */
import type { Express } from 'express';
import { createServer, ServerResponse } from 'node:http';
import { loadSettings } from '../../src/config/settings.js';
import { completeHead } from '../../src/http/answer-headers.js';
import type * as adapterModule from '../../src/http/lean-express.adapter.js';
import { boundUnanswered } from '../../src/http/pipelined-requests.js';
import { createLogger } from '../../src/observability/logger.js';
import type * as serverModule from '../../src/server.js';

// The modules come from the build, as decoding processes are found from there.
const built = (path: string): Promise<unknown> => import(new URL(`../../../${path}`, import.meta.url).href);
const { LeanExpressAdapter } = (await built('http/lean-express.adapter.js')) as typeof adapterModule;
const { serve } = (await built('server.js')) as typeof serverModule;

/** Writes the same headers as this service. */
class CompleteResponse extends ServerResponse {
  override writeHead(status: number, ...given: unknown[]): this {
    return super.writeHead(status, ...completeHead(this, given));
  }
}

LeanExpressAdapter.prototype.initHttpServer = function (): void {
  const express: Express = this.getInstance();
  // Express sets its own prototype on each response, so this class is the prototype of that prototype.
  Object.setPrototypeOf(Object.getPrototypeOf(express.response), CompleteResponse.prototype);
  Object.assign(this, { httpServer: createServer({ requireHostHeader: false }, boundUnanswered(express)) });
};
if (process.env.WITHOUT === 'all') Reflect.deleteProperty(LeanExpressAdapter.prototype, 'reply');

const settings = loadSettings(process.env);
await serve(settings, createLogger(settings.logLevel));
