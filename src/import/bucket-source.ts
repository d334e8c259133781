import {
  CopyObjectCommand,
  DeleteObjectCommand,
  GetBucketVersioningCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  PutObjectAclCommand,
  PutObjectCommand,
  type S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { isThumbnailKey, STORAGE_FOLDER } from '../chat-images/entities/chat-image-path.js';
import type { S3Settings, SourceBucketSettings } from '../config/settings.js';
import { systemCode } from '../errors/system-code.js';
import type { BytePieces } from '../storage/byte-pieces.js';
import { createS3Client } from '../storage/s3-client.js';
import { encodePath } from '../storage/s3-url-signer.js';
import {
  ImportSource,
  type ListedFile,
  SourceError,
  SourceFile,
  SourceFileError,
  tooLarge,
} from './import-source.js';
import { kindOfUnknown, parseOldPicture } from './old-picture.js';

/** An import may wait longer than a client of the service. */
const TIMEOUT_MS = 30_000;
const CONNECT_TIMEOUT_MS = 5000;
const MAX_ATTEMPTS = 3;

/** Where the old bytes of a picture are kept that is rewritten in place: `version {id}` or `key {key}`. */
const ORIGINAL = /^(?<kind>version|key) (?<name>.+)$/s;

type KeptOriginal = { readonly key: string; readonly versionId?: string };

/** A bucket of the previous system: another one, or this service's own. */
export class BucketSource extends ImportSource {
  private readonly client: S3Client;
  /** With versions the bucket keeps the old bytes of an object that is written again. */
  private versioned = false;

  /**
   * @param prefix stands before `chat_images/` in the keys: empty, or with a slash at its end
   * @param target the bucket of this service, where it has one
   * @param keepUnder the prefix under which the originals of pictures are kept that are rewritten in place
   */
  constructor(
    private readonly bucket: string,
    private readonly prefix: string,
    private readonly settings: SourceBucketSettings,
    target: S3Settings | undefined,
    private readonly keepUnder?: string,
  ) {
    super(
      `s3://${bucket}/${prefix}`,
      prefix === '' && bucket === target?.bucket && settings.endpoint === target.endpoint,
    );
    this.client = createS3Client({
      ...settings,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      requestTimeoutMs: TIMEOUT_MS,
      maxAttempts: MAX_ATTEMPTS,
    }).client;
  }

  /** Whether the bucket keeps the old versions of objects. Known after {@link open}. */
  get keepsVersions(): boolean {
    return this.versioned;
  }

  override async open(): Promise<void> {
    try {
      await this.client.send(
        new ListObjectsV2Command({
          Bucket: this.bucket,
          Prefix: `${this.prefix}${STORAGE_FOLDER}/`,
          MaxKeys: 1,
        }),
      );
      if (!this.isTarget) return;
      const { Status } = await this.client.send(new GetBucketVersioningCommand({ Bucket: this.bucket }));
      this.versioned = Status === 'Enabled';
    } catch (error) {
      throw new SourceError(
        `The bucket ${this.bucket} can not be read (${nameOf(error)}): check --from and MIGRATE_SOURCE_KEY, _SECRET, _ENDPOINT and _REGION.`,
        { cause: error },
      );
    }
  }

  override async *list(): AsyncGenerator<ListedFile> {
    // Other folders are only named: what is in them is nobody's business here.
    for await (const { prefixes, keys } of this.pages(this.prefix, '/')) {
      for (const path of [...prefixes, ...keys])
        if (path !== `${STORAGE_FOLDER}/` && path !== '') yield { path, unknown: 'folder of something else' };
    }
    for await (const { keys } of this.pages(`${this.prefix}${STORAGE_FOLDER}/`)) {
      for (const path of keys) {
        // This service's own.
        if (isThumbnailKey(path)) continue;
        yield parseOldPicture(path) ?? { path, unknown: kindOfUnknown(path) };
      }
    }
  }

  override async read(
    filePath: string,
    maxBytes: number,
    original?: string | null,
  ): Promise<SourceFile | undefined> {
    const { key, versionId } = this.place(filePath, original);
    try {
      const { Body, ContentLength, ETag, VersionId } = await this.client.send(
        new GetObjectCommand({ Bucket: this.bucket, Key: key, VersionId: versionId }),
      );
      if (!(Body instanceof Readable)) throw new SourceFileError('The bucket answered without a body.');
      if ((ContentLength ?? 0) > maxBytes) {
        Body.destroy();
        throw tooLarge(maxBytes);
      }
      const pieces: Buffer[] = [];
      for await (const piece of Body as AsyncIterable<Buffer>) pieces.push(piece);
      return new SourceFile(pieces, ETag ?? '', VersionId);
    } catch (error) {
      if (error instanceof SourceFileError) throw error;
      const status = statusOf(error);
      if (status === 404) return undefined;
      if (status !== undefined && status < 500)
        throw new SourceFileError(`It can not be read (${nameOf(error)}).`, { cause: error });
      throw this.unavailable(error);
    }
  }

  override async has(filePath: string): Promise<boolean> {
    return (await this.tagOf(this.keyOf(filePath))) !== undefined;
  }

  override async isUnchanged(filePath: string, { version }: SourceFile): Promise<boolean> {
    return (await this.tagOf(this.keyOf(filePath))) === version;
  }

  /**
   * Keeps the bytes of an object that will be rewritten in place: as a copy, or as an old version, which the bucket keeps by itself.
   *
   * @returns where they are, for {@link read}, {@link delete} and {@link close}; `undefined` where they are not kept
   */
  originalOf(filePath: string, { versionId }: SourceFile): string | undefined {
    if (this.keepUnder !== undefined) return `key ${this.keepUnder}/${filePath}`;
    return this.versioned && versionId !== undefined ? `version ${versionId}` : undefined;
  }

  /**
   * Copies an object to where its original is kept, once. With versions there is nothing to copy.
   *
   * @throws SourceFileError when something else is there
   */
  async keepOriginal(filePath: string, original: string | undefined): Promise<void> {
    const { key, versionId } = this.place(filePath, original);
    if (original === undefined || versionId !== undefined) return;
    const [kept, current] = await Promise.all([this.tagOf(key), this.tagOf(this.keyOf(filePath))]);
    if (kept !== undefined && kept === current) return;
    if (kept !== undefined) throw new SourceFileError('Another object is where its original would be kept.');
    await this.request(() =>
      this.client.send(
        new CopyObjectCommand({
          Bucket: this.bucket,
          Key: key,
          CopySource: `${this.bucket}/${encodePath(this.keyOf(filePath))}`,
          ...(this.settings.objectAcl === 'none' ? {} : { ACL: 'private' }),
        }),
      ),
    );
  }

  override async write(
    filePath: string,
    pieces: BytePieces,
    { contentType, isPublic }: { readonly contentType: string; readonly isPublic: boolean },
  ): Promise<void> {
    const bytes = Buffer.concat(pieces);
    await this.request(() =>
      this.client.send(
        new PutObjectCommand({
          Bucket: this.bucket,
          Key: this.keyOf(filePath),
          Body: bytes,
          ContentLength: bytes.length,
          ContentType: contentType,
          ContentMD5: createHash('md5').update(bytes).digest('base64'),
          ...this.acl(isPublic),
        }),
      ),
    );
  }

  override async delete(filePath: string, original?: string | null): Promise<void> {
    const { key, versionId } = this.placeOfOld(filePath, original);
    await this.request(() =>
      this.client.send(new DeleteObjectCommand({ Bucket: this.bucket, Key: key, VersionId: versionId })),
    );
  }

  override async close(filePath: string, original?: string | null): Promise<void> {
    if (this.settings.objectAcl === 'none')
      throw new SourceError('--make-private needs ACLs, which DO_SPACES_OBJECT_ACL=none switches off.');
    const { key, versionId } = this.placeOfOld(filePath, original);
    await this.request(() =>
      this.client.send(
        new PutObjectAclCommand({ Bucket: this.bucket, Key: key, VersionId: versionId, ACL: 'private' }),
      ),
    );
  }

  override end(): void {
    this.client.destroy();
  }

  private async *pages(
    prefix: string,
    delimiter?: string,
  ): AsyncGenerator<{ readonly prefixes: readonly string[]; readonly keys: readonly string[] }> {
    let page: ListObjectsV2CommandOutput | undefined;
    const below = (key: string | undefined): string => (key ?? '').slice(this.prefix.length);
    do {
      const command: ListObjectsV2Command = new ListObjectsV2Command({
        Bucket: this.bucket,
        Prefix: prefix,
        Delimiter: delimiter,
        ContinuationToken: page?.NextContinuationToken,
      });
      page = await this.request(() => this.client.send(command));
      yield {
        prefixes: (page.CommonPrefixes ?? []).map(({ Prefix }) => below(Prefix)),
        keys: (page.Contents ?? []).map(({ Key }) => below(Key)),
      };
    } while (page.NextContinuationToken !== undefined);
  }

  /** The ETag of an object; `undefined` where there is none. */
  private async tagOf(key: string): Promise<string | undefined> {
    try {
      const { ETag } = await this.client.send(new HeadObjectCommand({ Bucket: this.bucket, Key: key }));
      return ETag ?? '';
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw this.unavailable(error);
    }
  }

  private keyOf(filePath: string): string {
    return `${this.prefix}${filePath}`;
  }

  private place(filePath: string, original: string | null | undefined): KeptOriginal {
    const { kind, name } = ORIGINAL.exec(original ?? '')?.groups ?? {};
    if (kind === 'version' && name !== undefined) return { key: this.keyOf(filePath), versionId: name };
    return { key: kind === 'key' && name !== undefined ? name : this.keyOf(filePath) };
  }

  /** In this service's own bucket the object itself is the private picture: only its kept original is old. */
  private placeOfOld(filePath: string, original: string | null | undefined): KeptOriginal {
    if (this.isTarget && !ORIGINAL.test(original ?? ''))
      throw new Error('The private picture itself was to be deleted.');
    return this.place(filePath, original);
  }

  private acl(isPublic: boolean): { ACL?: 'public-read' | 'private' } {
    if (isPublic) return { ACL: 'public-read' };
    return this.settings.objectAcl === 'none' ? {} : { ACL: 'private' };
  }

  private async request<T>(send: () => Promise<T>): Promise<T> {
    try {
      return await send();
    } catch (error) {
      throw this.unavailable(error);
    }
  }

  private unavailable(error: unknown): SourceError {
    return new SourceError(`The bucket ${this.bucket} did not answer as it should (${nameOf(error)}).`, {
      cause: error,
    });
  }
}

function statusOf(error: unknown): number | undefined {
  return error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined;
}

function nameOf(error: unknown): string {
  return systemCode(error) ?? (error instanceof Error ? error.name : 'unknown error');
}
