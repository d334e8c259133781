import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  type S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { createHash } from 'node:crypto';
import { basename } from 'node:path/posix';
import { Readable } from 'node:stream';
import type { OnApplicationShutdown } from '@nestjs/common';
import type { S3Settings } from '../config/settings.js';
import type { BytePieces } from './byte-pieces.js';
import { systemCode } from '../errors/system-code.js';
import type { Metrics } from '../observability/metrics.js';
import { ObjectExistsError, ObjectNotFoundError, StorageUnavailableError } from './storage-errors.js';
import { createS3Client } from './s3-client.js';
import { ObjectRefusedError, S3ObjectWriter } from './s3-object-writer.js';
import { S3UrlSigner } from './s3-url-signer.js';
import { type FailedAnswer, storageFailureOf } from './storage-failure.js';
import { type ListedObject, type NewObject, StorageProvider, type StoredObject } from './storage-provider.js';

/** Phones may cache a picture for as long as a signed URL works. */
const CACHE_CONTROL = 'private, max-age=3600';

const PRECONDITION_FAILED = 412;

/** The prefix that a ping lists: in the folder of the pictures, where no picture is. */
const PING_PREFIX = 'chat_images/ping/';

/** Objects in a private bucket of an S3 service: DigitalOcean Spaces in production, MinIO in docker-compose. */
export class S3StorageProvider extends StorageProvider implements OnApplicationShutdown {
  private readonly client: S3Client;
  private readonly signer: S3UrlSigner;
  private readonly writer: S3ObjectWriter;

  constructor(
    private readonly settings: S3Settings,
    private readonly metrics?: Metrics,
  ) {
    super();
    const { client, requestHandler } = createS3Client(settings, metrics);
    this.client = client;
    this.signer = new S3UrlSigner(settings.publicUrl, settings, this.client.config.sha256);
    this.writer = new S3ObjectWriter(this.client, requestHandler, settings);
  }

  protected override async putObject(
    key: string,
    pieces: BytePieces,
    { contentType, sha256, ifAbsent = false }: NewObject,
  ): Promise<void> {
    const headers = {
      'content-type': contentType,
      'content-disposition': `inline; filename*=UTF-8''${encodeURIComponent(basename(key))}`,
      'cache-control': CACHE_CONTROL,
      ...(this.settings.objectAcl === 'none' ? {} : { 'x-amz-acl': this.settings.objectAcl }),
      ...(ifAbsent ? { 'if-none-match': '*' } : {}),
    };
    await this.request(() =>
      this.writer.put(key, pieces, headers, sha256 ?? sha256Of(pieces)).catch((error: unknown) => {
        if (ifAbsent && error instanceof ObjectRefusedError && error.status === PRECONDITION_FAILED)
          throw new ObjectExistsError('There is an object with this key.', { cause: error });
        throw error;
      }),
    );
  }

  protected override async headObject(key: string): Promise<StoredObject | undefined> {
    try {
      const { ContentLength, ContentType } = await this.objectRequest(() =>
        this.client.send(new HeadObjectCommand({ Bucket: this.settings.bucket, Key: key })),
      );
      return { size: ContentLength ?? 0, contentType: ContentType ?? 'application/octet-stream' };
    } catch (error) {
      if (error instanceof ObjectNotFoundError) return undefined;
      throw error;
    }
  }

  protected override async getObject(key: string): Promise<Readable> {
    const { Body } = await this.objectRequest(() =>
      this.client.send(new GetObjectCommand({ Bucket: this.settings.bucket, Key: key })),
    );
    if (!(Body instanceof Readable))
      throw new StorageUnavailableError('The storage answered without a body.', 'unexpected');
    return Body;
  }

  protected override async deleteObject(key: string): Promise<void> {
    await this.objectRequest(() =>
      this.client.send(new DeleteObjectCommand({ Bucket: this.settings.bucket, Key: key })),
    );
  }

  async *list(prefix: string): AsyncGenerator<ListedObject> {
    let page: ListObjectsV2CommandOutput | undefined;
    do {
      const command: ListObjectsV2Command = new ListObjectsV2Command({
        Bucket: this.settings.bucket,
        Prefix: prefix,
        ContinuationToken: page?.NextContinuationToken,
      });
      page = await this.request(() => this.client.send(command));
      for (const { Key, Size, LastModified } of page.Contents ?? []) {
        if (Key !== undefined) yield { key: Key, size: Size ?? 0, lastModified: LastModified ?? new Date() };
      }
    } while (page.NextContinuationToken !== undefined);
  }

  protected override signUrl(key: string, expiresIn: number, signedAt: Date): Promise<string> {
    return this.signer.sign(key, expiresIn, signedAt);
  }

  async ping(signal: AbortSignal): Promise<void> {
    // No HEAD of the bucket: only the body of an error response tells a wrong key from a wrong secret.
    const command = new ListObjectsV2Command({
      Bucket: this.settings.bucket,
      Prefix: PING_PREFIX,
      MaxKeys: 1,
    });
    const { Name, KeyCount } = await this.request(() => this.client.send(command, { abortSignal: signal }));
    if (Name === undefined && KeyCount === undefined)
      throw new StorageUnavailableError('The storage answered without a list.', 'unexpected');
  }

  onApplicationShutdown(): void {
    this.client.destroy();
  }

  /** Runs a request for an object that may not exist. */
  private async objectRequest<T>(send: () => Promise<T>): Promise<T> {
    try {
      return await this.request(send);
    } catch (error) {
      const cause = error instanceof StorageUnavailableError ? error.cause : undefined;
      if (isNotFound(cause)) throw new ObjectNotFoundError('There is no such object.', { cause });
      throw error;
    }
  }

  /**
   * Runs a request, and turns the SDK's many errors into one.
   *
   * @throws StorageUnavailableError
   */
  private async request<T>(send: () => Promise<T>): Promise<T> {
    try {
      return await send();
    } catch (error) {
      if (error instanceof ObjectExistsError) throw error;
      const answer = answerOf(error);
      const failure = storageFailureOf(answer);
      if (!isNotFound(error)) this.metrics?.storageFailed(failure);
      throw new StorageUnavailableError('The storage did not answer as it should.', failure, {
        answer,
        cause: error,
      });
    }
  }
}

/**
 * Whether an object is missing. The response to a HEAD has no body, so the status decides. A missing bucket is known by the
 * error's name, where there is one.
 */
function isNotFound(error: unknown): boolean {
  return (
    error instanceof S3ServiceException &&
    error.$metadata.httpStatusCode === 404 &&
    error.name !== 'NoSuchBucket'
  );
}

function sha256Of(pieces: BytePieces): string {
  const hash = createHash('sha256');
  for (const piece of pieces) hash.update(piece);
  return hash.digest('hex');
}

/** Reads the storage's response from the SDK's error, or from the writer's. */
function answerOf(error: unknown): FailedAnswer {
  if (error instanceof ObjectRefusedError) return { status: error.status, code: error.code };
  const status = statusOf(error);
  // The SDK names an error after the code in its body.
  const code = status !== undefined && error instanceof Error ? error.name : systemCode(error);
  return { status, code };
}

/** The HTTP status in an error of the SDK. Errors of unreadable responses have one too. */
function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('$metadata' in error)) return undefined;
  return (error.$metadata as S3ServiceException['$metadata'] | undefined)?.httpStatusCode;
}
