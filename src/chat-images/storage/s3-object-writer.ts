import type { S3Client } from '@aws-sdk/client-s3';
import { HttpRequest } from '@smithy/core/protocols';
import type { NodeHttpHandler } from '@smithy/node-http-handler';
import { SignatureV4 } from '@smithy/signature-v4';
import type { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { setTimeout } from 'node:timers/promises';
import type { S3Settings } from '../../config/settings.js';
import { encodePath } from './s3-url-signer.js';

/** How long to wait before the second try; each further wait is twice as long. A random part keeps clients apart. */
const RETRY_DELAY_MS = 50;

/** The storage's own trouble, or too many requests: the same may succeed a moment later. */
const PASSING_STATUS = /^(429|5\d\d)$/;

/** What the storage says when it does not take an object. */
export class ObjectRefusedError extends Error {
  constructor(status: number) {
    super(`The storage answered ${status}.`);
    this.name = 'ObjectRefusedError';
  }
}

/**
 * Writes objects with the SDK's own connections and signature, but without the pipeline around them, which takes more
 * of the processor than the rest of the request.
 */
export class S3ObjectWriter {
  private readonly endpoint: URL;
  private readonly signer: SignatureV4;

  /** @param handler the connections to the storage */
  constructor(
    { config: { sha256 } }: S3Client,
    private readonly handler: NodeHttpHandler,
    private readonly settings: S3Settings,
  ) {
    this.endpoint = new URL(settings.endpoint);
    this.signer = new SignatureV4({
      service: 's3',
      region: settings.region,
      credentials: { accessKeyId: settings.accessKeyId, secretAccessKey: settings.secretAccessKey },
      sha256,
      // S3 is the one service whose paths are escaped once.
      uriEscapePath: false,
    });
  }

  /**
   * @param headers that go with the object, names in lower case
   * @param sha256 of `bytes`, in hexadecimal
   * @throws ObjectRefusedError, or the error of the connection, of the last try
   */
  async put(
    key: string,
    bytes: Buffer,
    headers: Readonly<Record<string, string>>,
    sha256: string,
  ): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      const status = await this.send(key, bytes, headers, sha256).catch((error: unknown) => {
        if (attempt === this.settings.maxAttempts) throw error;
        return 503;
      });
      if (status === 200) return;
      if (attempt === this.settings.maxAttempts || !PASSING_STATUS.test(String(status)))
        throw new ObjectRefusedError(status);
      await setTimeout(RETRY_DELAY_MS * 2 ** (attempt - 1) * (1 + Math.random()));
    }
  }

  private async send(
    key: string,
    bytes: Buffer,
    headers: Readonly<Record<string, string>>,
    sha256: string,
  ): Promise<number> {
    const { protocol, hostname, host, port, pathname } = this.endpoint;
    const request = new HttpRequest({
      method: 'PUT',
      protocol,
      hostname,
      ...(port === '' ? {} : { port: Number(port) }),
      path: `${pathname.replace(/\/+$/, '')}/${this.settings.bucket}/${encodePath(key)}`,
      headers: {
        ...headers,
        host,
        'content-length': String(bytes.length),
        // Signed with the rest, so the storage refuses other bytes.
        'x-amz-content-sha256': sha256,
      },
      body: bytes,
    });
    const signed = await this.signer.sign(request);
    const { response } = await this.handler.handle(HttpRequest.clone(signed));
    const body = response.body as Readable;
    // Read to its end, so that the connection can be used again.
    await finished(body.resume());
    return response.statusCode;
  }
}
