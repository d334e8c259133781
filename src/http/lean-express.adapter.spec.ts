import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Express } from 'express';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { LeanExpressAdapter } from './lean-express.adapter.js';

describe('LeanExpressAdapter', () => {
  const adapter = new LeanExpressAdapter();
  let server: Server;

  beforeAll(async () => {
    adapter.initHttpServer();
    server = adapter.getHttpServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  });

  afterAll(() => void server.close());

  it('creates requests and responses with the prototypes of Express', async () => {
    const express = adapter.getInstance<Express>();
    const prototypes = new Promise<readonly unknown[]>((resolve) => {
      // This listener runs before Express.
      server.prependOnceListener('request', (request: IncomingMessage, response: ServerResponse) =>
        resolve([Object.getPrototypeOf(request), Object.getPrototypeOf(response)]),
      );
    });
    express.get('/', (request, response) => response.json([request.get('host'), response.locals]));
    const { port } = server.address() as AddressInfo;
    const answer = await fetch(`http://127.0.0.1:${port}`);
    expect(await answer.json()).toEqual([`127.0.0.1:${port}`, {}]);
    const [ofRequest, ofResponse] = await prototypes;
    expect(ofRequest).toBe(express.request);
    expect(ofResponse).toBe(express.response);
  });
});
