import {
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectVersionsCommand,
  paginateListObjectsV2,
  PutBucketVersioningCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { randomUUID } from 'node:crypto';
import pLimit from 'p-limit';
import { s3Environment } from './s3-environment.js';

const CONCURRENCY = 8;

/** A bucket of the S3 server of the tests, for one test. */
export class TestBucket {
  private readonly client: S3Client;

  private constructor(
    readonly name: string,
    private readonly endpoint: string,
    readonly environment: NodeJS.ProcessEnv,
  ) {
    this.client = new S3Client({
      endpoint,
      region: environment.DO_SPACES_REGION ?? '',
      credentials: {
        accessKeyId: environment.DO_SPACES_KEY ?? '',
        secretAccessKey: environment.DO_SPACES_SECRET ?? '',
      },
      forcePathStyle: true,
    });
  }

  /** @param versioned whether the bucket keeps the old versions of objects */
  static async make(versioned = false): Promise<TestBucket> {
    const environment = s3Environment() ?? {};
    const endpoint = environment.DO_SPACES_ENDPOINT ?? '';
    const name = `test-${randomUUID()}`;
    const bucket = new TestBucket(name, endpoint, {
      ...environment,
      DO_SPACES_BUCKET: name,
      DO_SPACES_URL: `${endpoint}/${name}`,
    });
    await bucket.client.send(new CreateBucketCommand({ Bucket: name }));
    if (versioned)
      await bucket.client.send(
        new PutBucketVersioningCommand({ Bucket: name, VersioningConfiguration: { Status: 'Enabled' } }),
      );
    return bucket;
  }

  urlOf(key: string): string {
    return `${this.endpoint}/${this.name}${key === '' ? '' : '/'}${key.split('/').map(encodeURIComponent).join('/')}`;
  }

  async put(key: string, bytes: Buffer, type: string, isPublic: boolean): Promise<void> {
    await this.client.send(
      new PutObjectCommand({
        Bucket: this.name,
        Key: key,
        Body: bytes,
        ContentType: type,
        ACL: isPublic ? 'public-read' : 'private',
      }),
    );
  }

  async read(key: string): Promise<Buffer | undefined> {
    try {
      const { Body } = await this.client.send(new GetObjectCommand({ Bucket: this.name, Key: key }));
      return Buffer.from((await Body?.transformToByteArray()) ?? []);
    } catch (error) {
      if (error instanceof Error && error.name === 'NoSuchKey') return undefined;
      throw error;
    }
  }

  async keys(): Promise<string[]> {
    return [...(await this.tags()).keys()];
  }

  /** Tags, sizes and times of all objects, and whether they are public. */
  async snapshot(): Promise<ReadonlyMap<string, string>> {
    const limit = pLimit(CONCURRENCY);
    const entries = await limit.map(
      [...(await this.tags())],
      async ([key, tag]): Promise<[string, string]> => [
        key,
        `${tag} ${await statusOf(this.urlOf(key), 'HEAD')}`,
      ],
    );
    return new Map(entries);
  }

  /** The names of all versions of an object, newest first. */
  async versions(key: string): Promise<readonly string[]> {
    const { Versions = [] } = await this.client.send(
      new ListObjectVersionsCommand({ Bucket: this.name, Prefix: key }),
    );
    return Versions.map(({ VersionId = '' }) => VersionId);
  }

  async remove(): Promise<void> {
    const { Versions = [], DeleteMarkers = [] } = await this.client.send(
      new ListObjectVersionsCommand({ Bucket: this.name }),
    );
    const limit = pLimit(CONCURRENCY);
    await limit.map([...Versions, ...DeleteMarkers], ({ Key, VersionId }) =>
      this.client.send(new DeleteObjectCommand({ Bucket: this.name, Key, VersionId })),
    );
    await limit.map(await this.keys(), (Key) =>
      this.client.send(new DeleteObjectCommand({ Bucket: this.name, Key })),
    );
    await this.client.send(new DeleteBucketCommand({ Bucket: this.name }));
    this.client.destroy();
  }

  private async tags(): Promise<Map<string, string>> {
    const tags = new Map<string, string>();
    for await (const { Contents: objects = [] } of paginateListObjectsV2(
      { client: this.client },
      { Bucket: this.name },
    ))
      for (const { Key = '', ETag, Size, LastModified } of objects)
        tags.set(Key, `${ETag ?? ''} ${Size ?? 0} ${LastModified?.toISOString() ?? ''}`);
    return tags;
  }
}

/** The status of a request without credentials. */
export async function statusOf(url: string, method: 'GET' | 'HEAD' = 'GET'): Promise<number> {
  const response = await fetch(url, { method, redirect: 'manual' });
  await response.arrayBuffer();
  return response.status;
}
