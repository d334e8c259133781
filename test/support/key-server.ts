import type { JWK } from 'jose';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A key pair with which a main application signs. */
export type SigningKey = { readonly kid: string; readonly privateKey: KeyObject; readonly jwk: JWK };

export function signingKey(kid: string, algorithm: 'RS256' | 'ES256', modulusLength = 2048): SigningKey {
  const { publicKey, privateKey } =
    algorithm === 'RS256'
      ? generateKeyPairSync('rsa', { modulusLength })
      : generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { kid, privateKey, jwk: { ...(publicKey.export({ format: 'jwk' }) as JWK), kid } };
}

/** A key server for JWT_JWKS_URL. */
export class KeyServer {
  /** The number of its requests. */
  requests = 0;
  private answer: RequestListener = (_, response) => response.end('{"keys":[]}');
  private readonly server: Server;
  private port = 0;

  private constructor() {
    this.server = createServer((request, response) => {
      this.requests += 1;
      this.answer(request, response);
    });
  }

  static async start(keys: readonly unknown[] = []): Promise<KeyServer> {
    const server = new KeyServer();
    server.publish(keys);
    await server.comeBack();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/jwks.json`;
  }

  publish(keys: readonly unknown[]): void {
    this.answerWith((_, response) => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ keys }));
    });
  }

  answerWith(answer: RequestListener): void {
    this.answer = answer;
  }

  /** Stops listening, and cuts every connection. */
  async goAway(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }

  /** Listens again on the same port. */
  async comeBack(): Promise<void> {
    this.server.listen(this.port, '127.0.0.1');
    await once(this.server, 'listening');
    this.port = (this.server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    if (this.server.listening) await this.goAway();
  }
}
