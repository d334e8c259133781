import { expect } from '@jest/globals';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { createHash } from 'node:crypto';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { SignedUrlResponseDto } from '../../src/chat-images/dto/signed-url.dto.js';
import { loadSettings } from '../../src/config/settings.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { createLogger } from '../../src/observability/logger.js';
import { createApp } from '../../src/server.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { type Comparison, StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { type Sweep, UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { CuttingProxy } from './cutting-proxy.js';
import { eventually } from './eventually.js';
import { picture } from './pictures.js';
import { APPOINTMENT, DOCTOR, PATIENT, TEST_ENVIRONMENT, TestApp } from './test-app.js';

/** The second appointment of the patient and the doctor. */
export const OTHER_APPOINTMENT = 146;

/** Longer than all limits below together, and shorter than the wait for an upload that does not end. */
const ANSWER_LIMIT_MS = 8000;

/** The tests call sweeps and comparisons themselves. */
const HEALTHY_ENVIRONMENT = { UPLOAD_GRACE_SECONDS: '1', SWEEP_INTERVAL_SECONDS: '0' };

/** Short timeouts, and the grace time of production, so that no retry works only because time has passed. */
const FAULTY_ENVIRONMENT = {
  SWEEP_INTERVAL_SECONDS: '0',
  DATABASE_POOL_SIZE: '4',
  DATABASE_CONNECT_TIMEOUT_MS: '1000',
  DATABASE_STATEMENT_TIMEOUT_MS: '400',
  STORAGE_CONNECT_TIMEOUT_MS: '400',
  STORAGE_REQUEST_TIMEOUT_MS: '400',
  STORAGE_MAX_ATTEMPTS: '2',
};

export type Answer = { readonly status: number } & (
  | { readonly data: UploadedChatImageDto; readonly error?: undefined }
  | { readonly data?: undefined; readonly error: ErrorBodyDto; readonly retryAfter: string | null }
);

type Row = { readonly id: number; readonly file_path: string; readonly size: number; readonly state: string };

type UploadOptions = { key?: string; appointment?: number; as?: number; to?: string };

/**
 * Two instances of the service over one database and one storage. The healthy instance reaches both directly.
 * The faulty instance, the default for requests, reaches one of the backends through a proxy.
 */
export class TwoInstances {
  private constructor(
    readonly healthy: TestApp,
    readonly faulty: NestExpressApplication,
    readonly proxy: CuttingProxy,
    /** The port of the faulty instance. */
    readonly port: number,
  ) {}

  /**
   * @param environment of both instances
   * @param backend the backend behind the proxy
   */
  static async start(backend: 'database' | 'storage', environment: NodeJS.ProcessEnv): Promise<TwoInstances> {
    const healthy = await TestApp.start({ ...HEALTHY_ENVIRONMENT, ...environment });
    const { database, storage } = healthy.settings;
    await healthy.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
      OTHER_APPOINTMENT,
      PATIENT,
      DOCTOR,
    ]);
    const url = new URL(backend === 'database' ? database.url : (environment.DO_SPACES_ENDPOINT ?? ''));
    const proxy = await CuttingProxy.start({ host: url.hostname, port: Number(url.port || 80) });
    url.host = proxy.address;
    const port = await freePort();
    const settings = loadSettings({
      ...TEST_ENVIRONMENT,
      ...FAULTY_ENVIRONMENT,
      ...environment,
      PORT: String(port),
      // Both instances share an address, as behind a load balancer.
      APP_URL: healthy.settings.appUrl,
      DATABASE_URL: backend === 'database' ? url.href : database.url,
      LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : undefined,
      DO_SPACES_ENDPOINT: backend === 'storage' ? url.href : undefined,
    });
    const faulty = await createApp(settings, createLogger('silent'));
    await faulty.listen(port, '127.0.0.1');
    return new TwoInstances(healthy, faulty, proxy, port);
  }

  async stop(): Promise<void> {
    this.proxy.pass();
    this.faulty.getHttpServer().closeAllConnections();
    await this.faulty.close();
    await this.proxy.stop();
    await this.healthy.stop();
  }

  /** The address of the faulty instance. */
  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get storage(): StorageProvider {
    return this.healthy.app.get(StorageProvider);
  }

  headers(as: number, key?: string): Record<string, string> {
    return {
      authorization: `Bearer ${this.healthy.token(as)}`,
      ...(key === undefined ? {} : { 'idempotency-key': key }),
    };
  }

  async upload(bytes: Uint8Array, options: UploadOptions = {}): Promise<Answer> {
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }), 'photo.jpg');
    form.append('appointment_id', String(options.appointment ?? APPOINTMENT));
    const response = await fetch(`${options.to ?? this.url}/api/upload/chat-image`, {
      method: 'POST',
      body: form,
      headers: this.headers(options.as ?? PATIENT, options.key),
      signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
    });
    const { status, headers } = response;
    if (status === 200) {
      return { status, data: ((await response.json()) as UploadedChatImageResponseDto).data };
    }
    const error = (await response.json()) as ErrorBodyDto;
    return { status, error, retryAfter: headers.get('retry-after') };
  }

  rows(): Promise<Row[]> {
    return this.healthy.database.query<Row[]>(
      'SELECT id, file_path, size, state FROM chat_images ORDER BY file_path',
    );
  }

  rowsOf(bytes: Uint8Array): Promise<Row[]> {
    return this.healthy.database.query<Row[]>(
      'SELECT id, file_path, size, state FROM chat_images WHERE sha256_sent = $1',
      [sha256(bytes)],
    );
  }

  /** The thumbnails of stored images, and those that unfinished work may have written, without a size. */
  private thumbnails(): Promise<{ key: string; size: number | null }[]> {
    return this.healthy.database.query(
      `SELECT chat_image_thumbnail_key(file_path, mime_type) AS key, thumbnail_size AS size FROM chat_images
       WHERE state <> 'stored' OR thumbnail_size IS NOT NULL OR thumbnail_lease_until IS NOT NULL`,
    );
  }

  async audits(imageId: number): Promise<unknown[]> {
    return this.healthy.database.query<unknown[]>(
      'SELECT accessed_by FROM chat_image_access WHERE chat_image_id = $1 ORDER BY id',
      [imageId],
    );
  }

  async objects(): Promise<Map<string, number>> {
    const sizes = new Map<string, number>();
    for await (const { key, size } of this.storage.list('chat_images/')) sizes.set(key, size);
    return sizes;
  }

  /** Moves pending uploads, leases and tombstones an hour into the past. */
  async letGraceTimePass(): Promise<void> {
    await this.healthy.database.query(
      `UPDATE chat_images SET created_at = created_at - interval '1 hour', lease_until = lease_until - interval '1 hour'
       WHERE state <> 'stored'`,
    );
    await this.healthy.database.query(
      `UPDATE chat_image_tombstones SET settled_at = settled_at - interval '1 hour', next_attempt_at = now()`,
    );
  }

  sweep(app: NestExpressApplication = this.healthy.app): Promise<Sweep> {
    return app.get(UploadSweeper).sweep();
  }

  /** Sweeps a running upload as if its lease had ended. Repeats when the lease was renewed before the sweep. */
  async sweepUnderWay(bytes: Buffer): Promise<void> {
    await eventually(async () => {
      await this.letGraceTimePass();
      await this.sweep();
      return (await this.rowsOf(bytes)).length === 0;
    });
  }

  compare(): Promise<Comparison> {
    return this.healthy.app.get(StorageReconciler).compare();
  }

  /** The keys of objects that no row names. */
  async unknownKeys(): Promise<readonly string[]> {
    return (await this.compare()).unknown.first.map(({ key }) => key);
  }

  /** Expects only stored images with their objects after the grace time and a sweep. */
  async expectTidyAfterSweep(): Promise<void> {
    await this.letGraceTimePass();
    await this.sweep();
    const rows = await this.rows();
    expect(rows.filter(({ state }) => state !== 'stored')).toEqual([]);
    await this.expectInvariant();
  }

  /** Expects what must hold at any time: every stored row has its objects, and every object has a row. */
  async expectInvariant(): Promise<void> {
    const objects = await this.objects();
    const rows = await this.rows();
    const stored = rows.filter(({ state }) => state === 'stored');
    expect(stored.map(({ file_path }) => [file_path, objects.get(file_path)])).toEqual(
      stored.map(({ file_path, size }) => [file_path, size]),
    );
    const thumbnails = await this.thumbnails();
    const written = thumbnails.filter(({ size }) => size !== null);
    expect(written.map(({ key }) => [key, objects.get(key)])).toEqual(
      written.map(({ key, size }) => [key, size]),
    );
    const keys = new Set([...rows.map(({ file_path }) => file_path), ...thumbnails.map(({ key }) => key)]);
    expect([...objects.keys()].filter((key) => !keys.has(key))).toEqual([]);
  }

  /** Ends the fault of a test, and checks the invariant. */
  async endFault(): Promise<void> {
    this.proxy.pass();
    await this.expectInvariant();
  }

  /** Expects a success, after which a participant can read the image on any instance. */
  async expectReadable({ status, data, error }: Answer): Promise<UploadedChatImageDto> {
    expect([status, error]).toEqual([200, undefined]);
    if (!data) throw new Error('The answer is no success.');
    const [row] = await this.healthy.database.query<{ sha256_stored: string }[]>(
      `SELECT sha256_stored FROM chat_images WHERE id = $1 AND state = 'stored'`,
      [data.id],
    );
    const signed = await this.healthy.fetch(`/api/chat-images/${data.id}/signed-url`, { as: DOCTOR });
    expect(signed.status).toBe(200);
    const { url } = ((await signed.json()) as SignedUrlResponseDto).data;
    for (const address of [url, data.signed_url]) {
      const response = await fetch(address);
      expect(response.status).toBe(200);
      expect(sha256(Buffer.from(await response.arrayBuffer()))).toBe(row?.sha256_stored);
    }
    return data;
  }
}

/** Compares an error response with the documented form. */
export function expectFailure(answer: Answer | undefined, status: number, code: string): void {
  expect([answer?.status, answer?.error?.error_code]).toEqual([status, code]);
  const { message, errors, ...rest } = answer?.error ?? {};
  expect(rest).toEqual({ success: false, error_code: code, request_id: expect.any(String) });
  expect(message).toMatch(/^[A-Z].{5,100}[.]$/);
  if (status !== 422) expect(errors).toBeUndefined();
  if (answer?.error && status === 503) expect(Number(answer.retryAfter)).toBeGreaterThan(0);
}

/** The response without its signed URL, which differs by its time. */
export function withoutSignature({ data }: Answer): Partial<UploadedChatImageDto> {
  return data ? Object.assign({}, data, { signed_url: undefined }) : {};
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** A new picture of about 30 kB. */
export const newPicture = (): Promise<Buffer> => picture('png', 128, 96);
