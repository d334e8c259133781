import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { createHash } from 'node:crypto';
import type { Agent as HttpAgent } from 'node:http';
import type { Agent as HttpsAgent } from 'node:https';
import { basename } from 'node:path/posix';
import { Readable } from 'node:stream';
import type { OnApplicationShutdown } from '@nestjs/common';
import type { S3Settings } from '../../config/settings.js';
import { ObjectNotFoundError, StorageUnavailableError } from './storage-errors.js';
import { S3ObjectWriter } from './s3-object-writer.js';
import { S3UrlSigner } from './s3-url-signer.js';
import { assertStorageKey } from './storage-key.js';
import {
  type ListedObject,
  type NewObject,
  type SignedUrl,
  StorageProvider,
  type StoredObject,
} from './storage-provider.js';

/** Phones may keep a picture for as long as a URL to it works. */
const CACHE_CONTROL = 'private, max-age=3600';

/** Connections to the storage at the same moment; further requests wait for one. */
const MAX_SOCKETS = 64;

/** Objects in a private bucket of an S3 service: DigitalOcean Spaces in production, MinIO in docker-compose. */
export class S3StorageProvider extends StorageProvider implements OnApplicationShutdown {
  private readonly client: S3Client;
  private readonly signer: S3UrlSigner;
  private readonly writer: S3ObjectWriter;

  constructor(private readonly settings: S3Settings) {
    super();
    const agent = { keepAlive: true, maxSockets: MAX_SOCKETS } satisfies ConstructorParameters<
      typeof HttpAgent
    >[0] &
      ConstructorParameters<typeof HttpsAgent>[0];
    const requestHandler = new NodeHttpHandler({
      connectionTimeout: settings.connectTimeoutMs,
      requestTimeout: settings.requestTimeoutMs,
      socketTimeout: settings.requestTimeoutMs,
      throwOnRequestTimeout: true,
      httpAgent: agent,
      httpsAgent: agent,
    });
    this.client = new S3Client({
      region: settings.region,
      credentials: { accessKeyId: settings.accessKeyId, secretAccessKey: settings.secretAccessKey },
      // The SDK's default checksums get a 411 for streams; Spaces ignores them.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      endpoint: settings.endpoint,
      forcePathStyle: true,
      maxAttempts: settings.maxAttempts,
      requestHandler,
    });
    this.signer = new S3UrlSigner(settings.publicUrl, settings);
    this.writer = new S3ObjectWriter(this.client, requestHandler, settings);
  }

  async put(key: string, bytes: Buffer, { contentType, sha256 }: NewObject): Promise<void> {
    assertStorageKey(key);
    const headers = {
      // The one integrity check of an upload that every S3 server makes.
      'content-md5': createHash('md5').update(bytes).digest('base64'),
      'content-type': contentType,
      'content-disposition': `inline; filename*=UTF-8''${encodeURIComponent(basename(key))}`,
      'cache-control': CACHE_CONTROL,
      'x-amz-acl': 'private',
    };
    const digest = sha256 ?? createHash('sha256').update(bytes).digest('hex');
    await this.request(() => this.writer.put(key, bytes, headers, digest));
  }

  async head(key: string): Promise<StoredObject | undefined> {
    assertStorageKey(key);
    try {
      const { ContentLength, ContentType } = await this.request(() =>
        this.client.send(new HeadObjectCommand({ Bucket: this.settings.bucket, Key: key })),
      );
      return { size: ContentLength ?? 0, contentType: ContentType ?? 'application/octet-stream' };
    } catch (error) {
      if (error instanceof ObjectNotFoundError) return undefined;
      throw error;
    }
  }

  async get(key: string): Promise<Readable> {
    assertStorageKey(key);
    const { Body } = await this.request(() =>
      this.client.send(new GetObjectCommand({ Bucket: this.settings.bucket, Key: key })),
    );
    if (!(Body instanceof Readable))
      throw new StorageUnavailableError('The storage answered without a body.');
    return Body;
  }

  async delete(key: string): Promise<void> {
    assertStorageKey(key);
    await this.request(() =>
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

  signedUrl(key: string, expiresIn: number, signedAt: Date): SignedUrl {
    assertStorageKey(key);
    const second = Math.floor(signedAt.getTime() / 1000) * 1000;
    const url = this.signer.sign(key, expiresIn, new Date(second));
    return { url, expiresIn, expiresAt: new Date(second + expiresIn * 1000) };
  }

  async ping(signal: AbortSignal): Promise<void> {
    await this.request(() =>
      this.client.send(new HeadBucketCommand({ Bucket: this.settings.bucket }), { abortSignal: signal }),
    );
  }

  onApplicationShutdown(): void {
    this.client.destroy();
  }

  /** Runs a request and turns the SDK's many errors into the storage's two. */
  private async request<T>(send: () => Promise<T>): Promise<T> {
    try {
      return await send();
    } catch (error) {
      // Ceph's messages are empty and a HEAD has no body to name the error: only the status tells. A missing
      // bucket is told apart by its name where there is one.
      if (
        error instanceof S3ServiceException &&
        error.$metadata.httpStatusCode === 404 &&
        error.name !== 'NoSuchBucket'
      ) {
        throw new ObjectNotFoundError('There is no such object.', { cause: error });
      }
      throw new StorageUnavailableError('The storage did not answer as it should.', { cause: error });
    }
  }
}
