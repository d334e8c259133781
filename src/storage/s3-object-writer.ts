import type { S3Client } from '@aws-sdk/client-s3';
import { HttpRequest } from '@smithy/core/protocols';
import type { NodeHttpHandler } from '@smithy/node-http-handler';
import { SignatureV4 } from '@smithy/signature-v4';
import { addAbortSignal, Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { setTimeout } from 'node:timers/promises';
import type { S3Settings } from '../config/settings.js';
import { type BytePieces, lengthOf } from './byte-pieces.js';
import { encodePath } from './s3-url-signer.js';

/** The pause before the second try. Each further pause is twice as long (exponential backoff), with a random part. */
const RETRY_DELAY_MS = 50;

/** Statuses of a failure that may pass: too many requests, or a fault of the storage. */
const PASSING_STATUS = /^(429|5\d\d)$/;

/** The most bytes that are read of an error response, which has some hundred. */
const MAX_REFUSAL_BYTES = 8 * 1024;

/** The storage's name of an error. The rest of its XML may hold keys and addresses. */
const ERROR_CODE = /<Code>\s*([A-Za-z][\w.]{0,63})\s*<\/Code>/;

/** The storage refused an object. */
export class ObjectRefusedError extends Error {
  override readonly name = 'ObjectRefusedError';

  /** @param code the storage's name of the error, such as `AccessDenied`, where its response has one */
  constructor(
    readonly status: number,
    readonly code: string | undefined,
  ) {
    super(`The storage answered ${status}.`);
  }
}

/**
 * Writes objects with the SDK's own connections and signature, but without the pipeline around them. `PutObjectCommand`
 * without the middleware that is not needed takes 1.8 times the processor time of a put of 300 KB (`npm run bench:put`).
 *
 * @see docs/decisions/object-writer.md
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
      // S3 is the only AWS service whose paths are escaped once.
      uriEscapePath: false,
    });
  }

  /**
   * @param headers of the object, names in lower case
   * @param sha256 of the bytes, in hexadecimal
   * @throws ObjectRefusedError, or the error of the connection, of the last try
   */
  async put(
    key: string,
    pieces: BytePieces,
    headers: Readonly<Record<string, string>>,
    sha256: string,
  ): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      const refusal = await this.send(key, pieces, headers, sha256).catch((error: unknown) => {
        if (attempt === this.settings.maxAttempts) throw error;
        return new ObjectRefusedError(503, undefined);
      });
      if (refusal === undefined) return;
      if (attempt === this.settings.maxAttempts || !PASSING_STATUS.test(String(refusal.status)))
        throw refusal;
      await setTimeout(RETRY_DELAY_MS * 2 ** (attempt - 1) * (1 + Math.random()));
    }
  }

  /** @returns the storage's refusal; `undefined` when the object is written */
  private async send(
    key: string,
    pieces: BytePieces,
    headers: Readonly<Record<string, string>>,
    sha256: string,
  ): Promise<ObjectRefusedError | undefined> {
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
        'content-length': String(lengthOf(pieces)),
        // This header is signed, so the storage refuses other bytes.
        'x-amz-content-sha256': sha256,
      },
      body: Readable.from(pieces, { objectMode: false }),
    });
    const signed = await this.signer.sign(request);
    const { response } = await this.handler.handle(HttpRequest.clone(signed));
    const body = response.body as Readable;
    if (response.statusCode !== 200)
      return new ObjectRefusedError(
        response.statusCode,
        await readErrorCode(body, this.settings.requestTimeoutMs),
      );
    // Read to its end, so that the connection can be used again.
    await finished(body.resume());
    return undefined;
  }
}

/** Finds the error's code in an error response. A body that is slow, cut or no XML has no code; the status is known. */
async function readErrorCode(body: Readable, timeoutMs: number): Promise<string | undefined> {
  let text = '';
  try {
    for await (const chunk of addAbortSignal(AbortSignal.timeout(timeoutMs), body)) {
      text += String(chunk);
      if (text.length > MAX_REFUSAL_BYTES) break;
    }
  } catch {
    // The part that has arrived is enough.
  }
  return ERROR_CODE.exec(text.slice(0, MAX_REFUSAL_BYTES))?.[1];
}
