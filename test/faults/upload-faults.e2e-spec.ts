import {
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  ListObjectsV2Command,
  S3Client,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { createHash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { SignedUrlResponseDto } from '../../src/chat-images/dto/signed-url.dto.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { type Comparison, StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { StoredImageVerifier } from '../../src/upkeep/stored-image-verifier.js';
import { UploadBudget } from '../../src/uploads/upload-budget.js';
import { type Sweep, UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { loadSettings } from '../../src/config/settings.js';
import { freePort } from '../../src/database/embedded-postgres.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { createLogger } from '../../src/observability/logger.js';
import { createApp } from '../../src/server.js';
import { CuttingProxy, type Fault } from '../support/cutting-proxy.js';
import { picture } from '../support/pictures.js';
import { s3Environment } from '../support/s3-environment.js';
import { APPOINTMENT, DOCTOR, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

const OTHER_APPOINTMENT = 146;

/** Longer than every limit below together; less than an upload waits for one that does not end. */
const ANSWER_LIMIT_MS = 8000;

/** The sweeps and comparisons of the tests are called by hand. */
const HEALTHY_ENVIRONMENT = { UPLOAD_GRACE_SECONDS: '1', SWEEP_INTERVAL_SECONDS: '0' };

/** Short limits; and the grace time of production, so that no retry works only because the time has passed. */
const FAULTY_ENVIRONMENT = {
  SWEEP_INTERVAL_SECONDS: '0',
  DATABASE_POOL_SIZE: '4',
  DATABASE_CONNECT_TIMEOUT_MS: '1000',
  DATABASE_STATEMENT_TIMEOUT_MS: '400',
  STORAGE_CONNECT_TIMEOUT_MS: '400',
  STORAGE_REQUEST_TIMEOUT_MS: '400',
  STORAGE_MAX_ATTEMPTS: '2',
};

type Answer = { readonly status: number } & (
  | { readonly data: UploadedChatImageDto; readonly error?: undefined }
  | { readonly data?: undefined; readonly error: ErrorBodyDto; readonly retryAfter: string | null }
);

type Row = { readonly id: number; readonly file_path: string; readonly size: number; readonly state: string };

type UploadOptions = { key?: string; appointment?: number; as?: number; to?: string };

/**
 * Two instances of the service over one database and one storage: one that reaches them directly, and a second one,
 * to which all goes that is not said to go elsewhere, that reaches one of them through a proxy.
 */
class TwoInstances {
  private constructor(
    readonly healthy: TestApp,
    readonly faulty: NestExpressApplication,
    readonly url: string,
    readonly proxy: CuttingProxy,
  ) {}

  /**
   * @param environment of both
   * @param backend the one behind the proxy
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
      // As behind one load balancer.
      APP_URL: healthy.settings.appUrl,
      DATABASE_URL: backend === 'database' ? url.href : database.url,
      LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : undefined,
      DO_SPACES_ENDPOINT: backend === 'storage' ? url.href : undefined,
    });
    const faulty = await createApp(settings, createLogger('silent'));
    await faulty.listen(port, '127.0.0.1');
    return new TwoInstances(healthy, faulty, `http://127.0.0.1:${port}`, proxy);
  }

  async stop(): Promise<void> {
    this.proxy.pass();
    this.faulty.getHttpServer().closeAllConnections();
    await this.faulty.close();
    await this.proxy.stop();
    await this.healthy.stop();
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

  /** As if nothing had happened for longer than the grace time since the uploads that have not ended began, or renewed their leases. */
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

  /** Sweeps an upload away that is under way, as if its lease had ended. It may be renewed before the sweep: then again. */
  async sweepUnderWay(bytes: Buffer): Promise<void> {
    await until(async () => {
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

  /** What is there once everything has had its time and the sweeper ran: images with their objects, and nothing else. */
  async expectTidyAfterSweep(): Promise<void> {
    await this.letGraceTimePass();
    await this.sweep();
    const rows = await this.rows();
    expect(rows.filter(({ state }) => state !== 'stored')).toEqual([]);
    await this.expectInvariant();
  }

  /** At every moment: every stored row has its object, every object a row. */
  async expectInvariant(): Promise<void> {
    const objects = await this.objects();
    const rows = await this.rows();
    const stored = rows.filter(({ state }) => state === 'stored');
    expect(stored.map(({ file_path }) => [file_path, objects.get(file_path)])).toEqual(
      stored.map(({ file_path, size }) => [file_path, size]),
    );
    const paths = new Set(rows.map(({ file_path }) => file_path));
    expect([...objects.keys()].filter((key) => !paths.has(key))).toEqual([]);
  }

  /** Holds a success against the promise that it makes: whoever may see the image can read it, on any instance. */
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

/** Holds a failure against the envelope of the contract. */
function expectFailure(answer: Answer | undefined, status: number, code: string): void {
  expect([answer?.status, answer?.error?.error_code]).toEqual([status, code]);
  const { message, errors, ...rest } = answer?.error ?? {};
  expect(rest).toEqual({ success: false, error_code: code, request_id: expect.any(String) });
  expect(message).toMatch(/^[A-Z].{5,100}[.]$/);
  if (status !== 422) expect(errors).toBeUndefined();
  if (answer?.error && status === 503) expect(Number(answer.retryAfter)).toBeGreaterThan(0);
}

/** What two answers for one image have in common: all but the moment at which its URL was signed. */
function withoutSignature({ data }: Answer): Partial<UploadedChatImageDto> {
  return data ? Object.assign({}, data, { signed_url: undefined }) : {};
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** A picture that no other test has sent, of about 30 kB. */
const newPicture = (): Promise<Buffer> => picture('png', 128, 96);

async function until<T>(condition: () => Promise<T | undefined> | T | undefined): Promise<T> {
  const deadline = Date.now() + ANSWER_LIMIT_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`Never came true: ${String(condition)}`);
    await setTimeout(10);
  }
}

/** What uploads go through while a fault lasts, and how each goes on afterwards. */
class FailedUploads {
  readonly answers = new Map<string, Answer>();
  readonly pictures = new Map<string, Buffer>();
  hits = 0;

  static readonly NAMES = [
    'without a key',
    'with a key',
    'later, without a key',
    'later, with a key',
  ] as const;

  static async make(instances: TwoInstances, fault: Fault): Promise<FailedUploads> {
    const uploads = new FailedUploads();
    for (const name of FailedUploads.NAMES) uploads.pictures.set(name, await newPicture());
    instances.proxy.fail(fault);
    try {
      await Promise.all(
        FailedUploads.NAMES.map(async (name) => {
          uploads.answers.set(
            name,
            await instances.upload(uploads.picture(name), { key: uploads.key(name) }),
          );
        }),
      );
    } finally {
      uploads.hits = instances.proxy.hits;
      instances.proxy.pass();
    }
    return uploads;
  }

  picture(name: string): Buffer {
    return this.pictures.get(name) ?? Buffer.alloc(0);
  }

  key(name: string): string | undefined {
    return name.endsWith('with a key') ? sha256(this.picture(name)) : undefined;
  }
}

/** The three promises of every fault, whichever backend it hits. */
function describeFault(
  getInstances: () => TwoInstances,
  fault: Fault,
  { code, onlyWithKey = false }: { code: string; onlyWithKey?: boolean },
): void {
  let instances: TwoInstances;
  let failed: FailedUploads;

  beforeAll(async () => {
    instances = getInstances();
    failed = await FailedUploads.make(instances, fault);
  });

  it(`is answered with 503 ${code}`, () => {
    expect(failed.hits).toBeGreaterThan(0);
    for (const name of FailedUploads.NAMES) {
      if (onlyWithKey && failed.key(name) === undefined) {
        expect(failed.answers.get(name)?.status).toBe(200);
      } else {
        expectFailure(failed.answers.get(name), 503, code);
      }
    }
  });

  it.each(['without a key', 'with a key'])('a retry at once works, %s', async (name) => {
    const bytes = failed.picture(name);
    const [committed] = (await instances.rowsOf(bytes)).filter(({ state }) => state === 'stored');
    const { id } = await instances.expectReadable(await instances.upload(bytes, { key: failed.key(name) }));
    if (committed) expect(id).toBe(committed.id);
    await instances.expectTidyAfterSweep();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('leaves the whole image or nothing once the sweeper ran, and a retry works then', async () => {
    await instances.expectTidyAfterSweep();
    for (const name of ['later, without a key', 'later, with a key']) {
      const bytes = failed.picture(name);
      const committed = await instances.rowsOf(bytes);
      const { id } = await instances.expectReadable(await instances.upload(bytes, { key: failed.key(name) }));
      if (committed[0]) expect(id).toBe(committed[0].id);
      expect(await instances.rowsOf(bytes)).toHaveLength(1);
    }
    await instances.expectTidyAfterSweep();
  });
}

describe('uploads, when the database fails', () => {
  let instances: TwoInstances;

  beforeAll(async () => {
    instances = await TwoInstances.start('database', {});
  });

  afterEach(async () => {
    instances.proxy.pass();
    await instances.expectInvariant();
  });

  afterAll(() => instances.stop());

  describe.each<[step: string, fault: Fault, onlyWithKey?: boolean]>([
    ['before anything', { how: 'refuse' }],
    ['at the look-up of the user', { how: 'cut before', at: 'find-user' }],
    ['at the look-up of the appointment', { how: 'cut before', at: 'decide-appointment' }],
    ['before the claim', { how: 'cut before', at: 'claim-upload' }],
    ['after the claim took effect', { how: 'cut after', at: 'claim-upload' }],
    ['at the begin of the transaction of a key', { how: 'cut before', at: 'BEGIN' }, true],
    ["at the key's lock", { how: 'cut after', at: 'lock-upload-key' }, true],
    ['at the insert of the key', { how: 'cut before', at: 'remember-upload-key' }, true],
    ["before the key's COMMIT", { how: 'cut before', at: 'COMMIT' }, true],
    ["after the key's COMMIT took effect", { how: 'cut after', at: 'COMMIT' }, true],
    ['before the row is made stored', { how: 'cut before', at: 'commit-stored' }],
    ['after the row was made stored', { how: 'cut after', at: 'commit-stored' }],
  ])('%s', (_step, fault, onlyWithKey) => {
    describeFault(() => instances, fault, {
      code: 'DATABASE_UNAVAILABLE',
      ...(onlyWithKey === undefined ? {} : { onlyWithKey }),
    });
  });

  it('at the audit row of a repeated upload: no URL without it, and the next try has both', async () => {
    const bytes = await newPicture();
    const first = await instances.expectReadable(await instances.upload(bytes));
    const before = await instances.audits(first.id);
    instances.proxy.fail({ how: 'cut before', at: 'record-access' });
    expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    expect(await instances.audits(first.id)).toEqual(before);
    instances.proxy.pass();
    expect((await instances.upload(bytes)).data?.id).toBe(first.id);
    expect(await instances.audits(first.id)).toHaveLength(before.length + 1);
  });

  /** Every connection of the pool is used, several times. */
  async function expectManyUploadsWork(): Promise<void> {
    const pictures = await Promise.all(Array.from({ length: 12 }, newPicture));
    const answers = await Promise.all(pictures.map((bytes) => instances.upload(bytes)));
    for (const answer of answers) await instances.expectReadable(answer);
    for (const bytes of pictures) expect(await instances.rowsOf(bytes)).toMatchObject([{ state: 'stored' }]);
  }

  it('a statement that gets no answer for longer than the limit: 503 in time, and uploads work afterwards', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'claim-upload' });
    expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    instances.proxy.pass();
    await expectManyUploadsWork();
    await instances.expectReadable(await instances.upload(bytes));
    await instances.expectTidyAfterSweep();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('a connection that has stopped to answer is not used again', async () => {
    const { id } = await instances.expectReadable(await instances.upload(await newPicture()));
    instances.proxy.fail({ how: 'hold', at: 'claim-upload' });
    expectFailure(await instances.upload(await newPicture()), 503, 'DATABASE_UNAVAILABLE');
    // Only the one connection is held: a pool that keeps it gives it to some of these.
    const statuses = await Promise.all(
      Array.from({ length: 12 }, async () => {
        const path = `${instances.url}/api/chat-images/${id}/signed-url`;
        return (await fetch(path, { headers: instances.headers(DOCTOR) })).status;
      }),
    );
    expect(statuses.filter((status) => status !== 200)).toEqual([]);
  });

  it('the whole server stands still in the middle of a claim: 503 in time, and uploads work afterwards', async () => {
    const { database, postgres } = instances.healthy;
    const bytes = await newPicture();
    const [postmaster] = (await readFile(join(postgres.directory, 'postmaster.pid'), 'utf8')).split('\n');
    // The insert waits for this lock, so that the server can be stopped in the middle of it.
    const blocker = database.createQueryRunner();
    await blocker.startTransaction();
    await blocker.query('LOCK TABLE chat_images IN EXCLUSIVE MODE');
    const upload = instances.upload(bytes);
    const pids = await until(async () => {
      const backends = await database.query<{ pid: number; waits: boolean }[]>(
        `SELECT pid, wait_event_type = 'Lock' AND query LIKE '/* claim-upload */%' AS waits
         FROM pg_stat_activity WHERE backend_type = 'client backend'`,
      );
      return backends.some(({ waits }) => waits) ? backends.map(({ pid }) => pid) : undefined;
    });
    const processes = [Number(postmaster), ...pids];
    for (const pid of processes) process.kill(pid, 'SIGSTOP');
    try {
      expectFailure(await upload, 503, 'DATABASE_UNAVAILABLE');
      expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    } finally {
      for (const pid of processes) process.kill(pid, 'SIGCONT');
    }
    await blocker.rollbackTransaction();
    await blocker.release();
    await expectManyUploadsWork();
    await instances.expectReadable(await instances.upload(bytes));
    await instances.expectTidyAfterSweep();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  describe('the client goes', () => {
    const boundary = 'boundary';

    async function begin(url: string, bytes: Buffer, share: number): Promise<Socket> {
      const body = Buffer.concat([
        Buffer.from(
          `--${boundary}\r\nContent-Disposition: form-data; name="appointment_id"\r\n\r\n${APPOINTMENT}\r\n` +
            `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n`,
        ),
        bytes,
        Buffer.from(`\r\n--${boundary}--\r\n`),
      ]);
      const { hostname, port } = new URL(url);
      const socket = connect(Number(port), hostname);
      socket.on('error', () => undefined);
      socket.write(
        `POST /api/upload/chat-image HTTP/1.1\r\nHost: test\r\n` +
          `Authorization: ${instances.headers(PATIENT).authorization ?? ''}\r\n` +
          `Content-Type: multipart/form-data; boundary=${boundary}\r\nContent-Length: ${body.length}\r\n\r\n`,
      );
      await new Promise((resolve) => socket.write(body.subarray(0, body.length * share), resolve));
      return socket;
    }

    it.each<[how: string, go: (socket: Socket) => void]>([
      ['with FIN', (socket) => void socket.end()],
      ['with RST', (socket) => void socket.resetAndDestroy()],
    ])('in mid-upload, %s: nothing is left, and its retry works', async (_how, go) => {
      const bytes = await newPicture();
      const budget = instances.faulty.get(UploadBudget);
      const socket = await begin(instances.url, bytes, 0.5);
      await until(() => budget.inUse > 0);
      // Its memory is free again at once, not only when the connection has stood still for long.
      try {
        go(socket);
        await until(() => budget.inUse === 0);
      } finally {
        socket.destroy();
      }
      expect(await instances.rowsOf(bytes)).toEqual([]);
      await instances.expectTidyAfterSweep();
      await instances.expectReadable(await instances.upload(bytes));
    });

    it('when it has sent all: its retry is the image that was stored meanwhile', async () => {
      const bytes = await newPicture();
      instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
      const socket = await begin(instances.url, bytes, 1);
      await until(() => instances.proxy.hits > 0);
      socket.resetAndDestroy();
      instances.proxy.pass();
      const row = await until(async () => (await instances.rowsOf(bytes)).find((r) => r.state === 'stored'));
      const { id } = await instances.expectReadable(await instances.upload(bytes));
      expect(id).toBe(row.id);
    });
  });

  describe('the sweeper', () => {
    // Its sweeps are counted.
    beforeEach(() => instances.expectTidyAfterSweep());

    /** What an instance leaves that was killed between its claim and its last statement. */
    async function leaveBehind(withObject: boolean): Promise<string> {
      const path = `chat_images/appointment_${APPOINTMENT}/${randomUUID()}.png`;
      await instances.healthy.database.query(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, state, sha256_stored)
         VALUES ($1, $2, $3, $4, 3, 'image/png', 'pending', $5)`,
        [APPOINTMENT, path, path.split('/').at(-1), PATIENT, sha256(Buffer.from('abc'))],
      );
      if (withObject) await instances.storage.put(path, [Buffer.from('abc')], { contentType: 'image/png' });
      return path;
    }

    it('leaves an upload alone that may still end', async () => {
      await instances.healthy.database.query(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, state, created_at)
         VALUES ($1, 'p', 'p', $2, 3, 'image/png', 'pending', now() + interval '1 minute')`,
        [APPOINTMENT, PATIENT],
      );
      expect((await instances.sweep()).uploads).toBe(0);
      expect((await instances.rows()).filter(({ file_path }) => file_path === 'p')).toHaveLength(1);
      await instances.expectTidyAfterSweep();
    });

    it('removes what a crash has left: the row, and the object when there is one', async () => {
      const paths = [await leaveBehind(true), await leaveBehind(false)];
      await instances.letGraceTimePass();
      expect(await instances.sweep()).toEqual({ uploads: 2, objects: 2, failures: 0 });
      const left = [...(await instances.rows()).map(({ file_path }) => file_path)];
      expect(left.filter((path) => paths.includes(path))).toEqual([]);
      for (const path of paths) expect(await instances.storage.head(path)).toBeUndefined();
    });

    it('works in several instances at once, each on what no other is at', async () => {
      const paths = await Promise.all(Array.from({ length: 6 }, () => leaveBehind(true)));
      await instances.letGraceTimePass();
      const sweeps = await Promise.all([
        instances.sweep(),
        instances.sweep(instances.faulty),
        instances.sweep(),
        instances.sweep(instances.faulty),
      ]);
      const sum = (of: keyof Sweep): number => sweeps.reduce((total, sweep) => total + sweep[of], 0);
      expect([sum('uploads'), sum('objects'), sum('failures')]).toEqual([6, 6, 0]);
      for (const path of paths) expect(await instances.storage.head(path)).toBeUndefined();
    });

    it.each(['DELETE FROM chat_images', 'UPDATE chat_image_tombstones', 'DELETE FROM chat_image_tombstones'])(
      'that dies in the middle, at %s, is followed by the next one',
      async (at) => {
        const path = await leaveBehind(true);
        await instances.letGraceTimePass();
        instances.proxy.fail({ how: 'cut after', at });
        await expect(instances.sweep(instances.faulty)).rejects.toThrow();
        instances.proxy.pass();
        await until(async () => {
          await instances.letGraceTimePass();
          await instances.sweep();
          return (await tombstonesOf(path)) === 0;
        });
        expect(await instances.storage.head(path)).toBeUndefined();
      },
    );

    const tombstonesOf = async (path: string): Promise<number> => {
      const { database } = instances.healthy;
      const found = await database.query<unknown[]>(
        'SELECT FROM chat_image_tombstones WHERE object_key = $1',
        [path],
      );
      return found.length;
    };

    it('that takes an upload under way for a crashed one leaves nothing of it, and its retry works', async () => {
      const bytes = await newPicture();
      instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
      const upload = instances.upload(bytes);
      await until(() => instances.proxy.hits > 0);
      await instances.sweepUnderWay(bytes);
      instances.proxy.pass();
      expectFailure(await upload, 503, 'OVERLOADED');
      expect(await instances.rowsOf(bytes)).toEqual([]);
      await instances.expectReadable(await instances.upload(bytes));
    });
  });

  describe('reconcile', () => {
    it('tells of an object without a row, and touches it not', async () => {
      const key = `chat_images/appointment_${APPOINTMENT}/1700000000_orphan0000.png`;
      await instances.storage.put(key, [Buffer.from('orphan')], { contentType: 'image/png' });
      // Not before it is older than the grace time: it might be an upload's that has just begun.
      await until(async () => (await instances.unknownKeys()).includes(key));
      expect(await instances.storage.head(key)).toBeDefined();
      await instances.storage.delete(key);
    });

    it("knows nothing unknown in a deleted appointment's pictures, which the sweeper removes", async () => {
      await instances.expectTidyAfterSweep();
      const appointment = 147;
      const { database } = instances.healthy;
      await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
        appointment,
        PATIENT,
        DOCTOR,
      ]);
      const bytes = await newPicture();
      const { file_path } = await instances.expectReadable(await instances.upload(bytes, { appointment }));
      await database.query('DELETE FROM appointments WHERE id = $1', [appointment]);
      expect(await instances.rowsOf(bytes)).toEqual([]);
      expect(await instances.unknownKeys()).toEqual([]);
      expect((await instances.sweep()).objects).toBe(1);
      expect(await instances.storage.head(file_path)).toBeUndefined();
    });

    it('and the verifier tell of images whose object is gone or changed', async () => {
      const images: UploadedChatImageDto[] = [];
      while (images.length < 4) {
        images.push(await instances.expectReadable(await instances.upload(await newPicture())));
      }
      const [intact, gone, shorter, changed] = images.map(({ id, file_path }) => ({
        id,
        filePath: file_path,
      }));
      if (!intact || !gone || !shorter || !changed) throw new Error('Four were uploaded.');
      const contentType = 'image/png';
      await instances.storage.delete(gone.filePath);
      await instances.storage.put(shorter.filePath, [Buffer.from('abc')], { contentType });
      const bytes = await buffer(await instances.storage.get(changed.filePath));
      bytes.writeUInt8(bytes.readUInt8(1000) ^ 1, 1000);
      await instances.storage.put(changed.filePath, [bytes], { contentType });
      try {
        expect((await instances.compare()).missing).toEqual({
          count: 2,
          first: [
            { ...gone, found: 'nothing' },
            { ...shorter, found: '3 bytes' },
          ],
        });
        const { counts, damaged } = await instances.healthy.app.get(StoredImageVerifier).verify(undefined);
        expect([...damaged].sort((a, b) => a.id - b.id)).toEqual([
          { ...gone, verdict: 'missing' },
          { ...shorter, verdict: 'changed' },
          { ...changed, verdict: 'changed' },
        ]);
        expect(counts).toMatchObject({ missing: 1, changed: 2 });
        expect(counts.intact).toBeGreaterThan(0);
      } finally {
        for (const { id, filePath } of [gone, shorter, changed]) {
          await instances.healthy.database.query('DELETE FROM chat_images WHERE id = $1', [id]);
          await instances.storage.delete(filePath);
        }
      }
    });

    it('cut off in the middle works the next time', async () => {
      const before = await instances.objects();
      for (const at of ['SELECT count(*)', 'WITH listed AS']) {
        instances.proxy.fail({ how: 'cut before', at });
        const reconciler = instances.faulty.get(StorageReconciler);
        await expect(reconciler.compare()).rejects.toThrow();
        instances.proxy.pass();
        expect((await reconciler.compare()).objects).toBe(before.size);
      }
      expect(await instances.objects()).toEqual(before);
    });
  });

  describe('the same picture', () => {
    it('five times at the same moment over two instances is one image', async () => {
      const bytes = await newPicture();
      const answers = await Promise.all(
        [0, 1, 0, 1, 0].map((instance) =>
          instances.upload(bytes, { to: instance ? instances.healthy.url : instances.url }),
        ),
      );
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
      for (const answer of answers) await instances.expectReadable(answer);
      const [first] = answers;
      if (!first?.data) throw new Error('The first is one of five successes.');
      for (const answer of answers) expect(withoutSignature(answer)).toEqual(withoutSignature(first));
      expect(await instances.rowsOf(bytes)).toHaveLength(1);
      // One of each answer, and five of the readings above.
      expect(await instances.audits(first.data.id)).toEqual([
        ...Array.from({ length: 5 }, () => ({ accessed_by: PATIENT })),
        ...Array.from({ length: 5 }, () => ({ accessed_by: DOCTOR })),
      ]);
    });

    it('that another try has stored in the meantime is not stored twice', async () => {
      const bytes = await newPicture();
      instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
      const upload = instances.upload(bytes);
      await until(() => instances.proxy.hits > 0);
      await instances.healthy.database.query(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, sha256_sent)
         SELECT appointment_id, file_path || '.twin', filename || '.twin', uploaded_by, size, mime_type, sha256_sent
         FROM chat_images WHERE sha256_sent = $1`,
        [sha256(bytes)],
      );
      instances.proxy.pass();
      expectFailure(await upload, 503, 'OVERLOADED');
      const stored = (await instances.rowsOf(bytes)).filter(({ state }) => state === 'stored');
      expect(stored.map(({ file_path: path }) => path)).toEqual([expect.stringMatching(/[.]twin$/)]);
      // It stands for no object, and would be told of by the checks of the other tests.
      await instances.healthy.database.query('DELETE FROM chat_images WHERE id = $1', [stored[0]?.id]);
    });

    it('is another image for another user, another appointment, and after the time for retries', async () => {
      const bytes = await newPicture();
      const first = await instances.upload(bytes);
      expect((await instances.upload(bytes)).data?.id).toBe(first.data?.id);
      const others = [
        await instances.upload(bytes, { as: DOCTOR }),
        await instances.upload(bytes, { appointment: OTHER_APPOINTMENT }),
      ];
      await instances.healthy.database.query(
        `UPDATE chat_images SET created_at = created_at - interval '301 seconds' WHERE id = $1`,
        [first.data?.id],
      );
      others.push(await instances.upload(bytes));
      for (const answer of [first, ...others]) await instances.expectReadable(answer);
      expect(new Set([first, ...others].map(({ data }) => data?.id)).size).toBe(4);
    });
  });

  describe('the Idempotency-Key', () => {
    const age = (table: string, imageId: number | undefined, time: string): Promise<unknown> =>
      instances.healthy.database.query(
        `UPDATE ${table} SET created_at = created_at - $1::interval
         WHERE ${table === 'chat_images' ? 'id' : 'chat_image_id'} = $2`,
        [time, imageId],
      );

    it('repeats the first answer, also when the same picture without it would be another image', async () => {
      const bytes = await newPicture();
      const key = randomUUID();
      const first = await instances.upload(bytes, { key });
      await age('chat_images', first.data?.id, '23 hours');
      const [repeated, healthy] = [
        await instances.upload(bytes, { key }),
        await instances.upload(bytes, { key, to: instances.healthy.url }),
      ];
      // The row is 23 hours older now than the first answer tells.
      const expected = { ...withoutSignature(first), created_at: repeated.data?.created_at };
      expect([repeated, healthy].map(withoutSignature)).toEqual([expected, expected]);
      await instances.expectReadable(repeated);
      expect(await instances.rowsOf(bytes)).toHaveLength(1);
    });

    it('is 409 IDEMPOTENCY_KEY_REUSED for other bytes and for another appointment', async () => {
      const bytes = await newPicture();
      const other = await newPicture();
      const key = randomUUID();
      const first = await instances.upload(bytes, { key });
      expectFailure(await instances.upload(other, { key }), 409, 'IDEMPOTENCY_KEY_REUSED');
      expectFailure(
        await instances.upload(bytes, { key, appointment: OTHER_APPOINTMENT }),
        409,
        'IDEMPOTENCY_KEY_REUSED',
      );
      expect(await instances.rowsOf(other)).toEqual([]);
      expect(await instances.rowsOf(bytes)).toHaveLength(1);
      // Another user's key is another key.
      const doctors = await instances.upload(other, { key, as: DOCTOR });
      await instances.expectReadable(doctors);
      expect((await instances.upload(bytes, { key })).data?.id).toBe(first.data?.id);
    });

    it('sent with two pictures at the same moment over two instances is that of one of them', async () => {
      const key = randomUUID();
      const answers = await Promise.all([
        instances.upload(await newPicture(), { key }),
        instances.upload(await newPicture(), { key, to: instances.healthy.url }),
      ]);
      const [success, refusal] = [...answers].sort((a, b) => a.status - b.status);
      if (!success) throw new Error('Two were sent.');
      await instances.expectReadable(success);
      expectFailure(refusal, 409, 'IDEMPOTENCY_KEY_REUSED');
    });

    it('five times at the same moment over two instances is one image', async () => {
      const bytes = await newPicture();
      const key = randomUUID();
      const answers = await Promise.all(
        [0, 1, 0, 1, 0].map((instance) =>
          instances.upload(bytes, { key, to: instance ? instances.healthy.url : instances.url }),
        ),
      );
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
      expect(new Set(answers.map(({ data }) => data?.id)).size).toBe(1);
      expect(await instances.rowsOf(bytes)).toHaveLength(1);
    });

    it('of two keys for the same bytes within the time for retries, both name the one image', async () => {
      const bytes = await newPicture();
      const keys = [randomUUID(), randomUUID()];
      const ids = new Set<number | undefined>();
      for (const key of [...keys, ...keys]) ids.add((await instances.upload(bytes, { key })).data?.id);
      expect(ids.size).toBe(1);
      const [id] = ids;
      await age('chat_images', id, '1 hour');
      for (const key of keys) expect((await instances.upload(bytes, { key })).data?.id).toBe(id);
      const later = await instances.upload(bytes, { key: randomUUID() });
      await instances.expectReadable(later);
      expect(later.data?.id).not.toBe(id);
    });

    it('is free again after 24 hours, also for another picture', async () => {
      const bytes = await newPicture();
      const key = randomUUID();
      const ids: (number | undefined)[] = [];
      for (const next of [bytes, bytes, await newPicture()]) {
        const answer = await instances.upload(next, { key });
        await instances.expectReadable(answer);
        ids.push(answer.data?.id);
        await age('chat_images', answer.data?.id, '24 hours 1 second');
        await age('chat_image_upload_keys', answer.data?.id, '24 hours 1 second');
      }
      expect(new Set(ids).size).toBe(3);
      const keysOf = (): Promise<unknown[]> =>
        instances.healthy.database.query<unknown[]>(
          'SELECT chat_image_id FROM chat_image_upload_keys WHERE idempotency_key = $1',
          [key],
        );
      expect(await keysOf()).toHaveLength(1);
      await instances.sweep();
      expect(await keysOf()).toEqual([]);
    });

    it.each(['', 'with space', 'tab\tin', 'ümlaut', 'x'.repeat(256)])(
      'that is malformed is 422 VALIDATION_FAILED: %j',
      async (key) => {
        const bytes = await newPicture();
        const answer = await instances.upload(bytes, { key });
        expectFailure(answer, 422, 'VALIDATION_FAILED');
        expect(answer.error?.errors).toEqual({
          'Idempotency-Key': ['The Idempotency-Key must be 1 to 255 printable characters.'],
        });
        expect(await instances.rowsOf(bytes)).toEqual([]);
      },
    );

    it('may be as long as 255 characters', async () => {
      await instances.expectReadable(
        await instances.upload(await newPicture(), { key: '!~'.repeat(127) + '"' }),
      );
    });
  });
});

describe('uploads, when the process of the database ends in the middle', () => {
  it('are answered with 503 in time, and the service lives on', async () => {
    const instances = await TwoInstances.start('database', {});
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
    const upload = instances.upload(bytes);
    await until(() => instances.proxy.hits > 0);
    await instances.healthy.postgres.stop();
    instances.proxy.pass();
    expectFailure(await upload, 503, 'DATABASE_UNAVAILABLE');
    expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    expect((await fetch(`${instances.url}/api/health`)).status).toBe(200);
    await instances.stop();
  });
});

describe('uploads, when the storage fails', () => {
  const environment = s3Environment();
  if (!environment) {
    it.skip('leave nothing behind and can be repeated (S3_ENDPOINT is not set)', () => undefined);
    return;
  }
  // Its own: the tests look at everything that is in it.
  const bucket = `upload-faults-${randomUUID()}`;
  const s3 = new S3Client({
    endpoint: environment.DO_SPACES_ENDPOINT ?? '',
    region: environment.DO_SPACES_REGION ?? '',
    credentials: {
      accessKeyId: environment.DO_SPACES_KEY ?? '',
      secretAccessKey: environment.DO_SPACES_SECRET ?? '',
    },
    forcePathStyle: true,
  });
  let instances: TwoInstances;

  beforeAll(async () => {
    await s3.send(new CreateBucketCommand({ Bucket: bucket }));
    instances = await TwoInstances.start('storage', {
      ...environment,
      DO_SPACES_BUCKET: bucket,
      DO_SPACES_URL: `${environment.DO_SPACES_ENDPOINT ?? ''}/${bucket}`,
    });
  });

  afterEach(async () => {
    instances.proxy.pass();
    await instances.expectInvariant();
  });

  afterAll(async () => {
    await instances.stop();
    const { Contents: objects } = await s3.send(new ListObjectsV2Command({ Bucket: bucket }));
    for (const { Key } of objects ?? []) await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
    await s3.send(new DeleteBucketCommand({ Bucket: bucket }));
    s3.destroy();
  });

  describe.each<[how: string, fault: Fault]>([
    ['refuses connections', { how: 'refuse' }],
    ['is cut before the put', { how: 'cut before' }],
    ['is cut in the middle of the put', { how: 'cut within', at: 'PUT /', bytes: 10_000 }],
    ['is cut in the middle of everything', { how: 'cut within', bytes: 100 }],
    ['is cut after the put and before its answer', { how: 'cut after', at: 'PUT /' }],
    ['is cut before the answer to everything', { how: 'cut after' }],
    ['answers 500 to the put', { how: 'answer 500', at: 'PUT /' }],
    ['answers 500 to everything', { how: 'answer 500' }],
    ['answers later than its limit', { how: 'delay answers', ms: 1000 }],
    ['stands still', { how: 'hold' }],
  ])('%s', (_how, fault) => {
    describeFault(() => instances, fault, { code: 'STORAGE_UNAVAILABLE' });
  });

  it.each<[when: string, fault: Fault]>([
    ['before the put has arrived', { how: 'hold', at: 'PUT /' }],
    ['after the put, before its answer', { how: 'hold answers', at: 'PUT /' }],
  ])(
    'a sweep in the middle of a slow put, %s: the upload fails whole, and its retry works',
    async (when, fault) => {
      const bytes = await newPicture();
      instances.proxy.fail(fault);
      const upload = instances.upload(bytes);
      const row = await until(async () => (await instances.rowsOf(bytes))[0]);
      // Only stored images exist for readers.
      const signedUrl = `/api/chat-images/${row.id}/signed-url`;
      expect((await instances.healthy.fetch(signedUrl, { as: DOCTOR })).status).toBe(404);
      if (when.startsWith('after')) await until(() => instances.storage.head(row.file_path));
      await instances.sweepUnderWay(bytes);
      instances.proxy.pass();
      const answer = await upload;
      if (answer.status === 200) await instances.expectReadable(answer);
      else expect(answer.status).toBe(503);
      await instances.expectTidyAfterSweep();
      await instances.expectReadable(await instances.upload(bytes));
      expect(await instances.rowsOf(bytes)).toHaveLength(1);
    },
  );

  it('a sweep while the storage is down keeps a tombstone of what it can not remove, and removes it later', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'cut after' });
    expectFailure(await instances.upload(bytes), 503, 'STORAGE_UNAVAILABLE');
    await instances.letGraceTimePass();
    instances.proxy.fail({ how: 'answer 500' });
    const failed = await instances.sweep(instances.faulty);
    expect([failed.uploads, failed.objects]).toEqual([1, 0]);
    expect(failed.failures).toBeGreaterThan(0);
    instances.proxy.pass();
    await instances.letGraceTimePass();
    expect(await instances.sweep(instances.faulty)).toEqual({
      uploads: 0,
      objects: failed.failures,
      failures: 0,
    });
    await instances.expectTidyAfterSweep();
  });

  it('the appointment is deleted in the middle of a slow put: nothing is left of it', async () => {
    const appointment = 148;
    const { database } = instances.healthy;
    await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
      appointment,
      PATIENT,
      DOCTOR,
    ]);
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold answers', at: 'PUT /' });
    const upload = instances.upload(bytes, { appointment });
    const row = await until(async () => (await instances.rowsOf(bytes))[0]);
    await until(() => instances.storage.head(row.file_path));
    await database.query('DELETE FROM appointments WHERE id = $1', [appointment]);
    instances.proxy.pass();
    expectFailure(await upload, 404, 'APPOINTMENT_NOT_FOUND');
    await instances.letGraceTimePass();
    await instances.sweep();
    expect(await instances.storage.head(row.file_path)).toBeUndefined();
  });

  /** A put that was held may arrive before, while or after the sweeper runs: the tombstone stays for that long. */
  async function untilTidy(): Promise<void> {
    // The time for which the tombstone stays is only pretended to pass, so it must not do so too early.
    await until(() => instances.proxy.givenUp === 0);
    await until(async () => {
      await instances.letGraceTimePass();
      await instances.sweep();
      return (await instances.rows()).length === (await instances.objects()).size;
    });
    await instances.expectTidyAfterSweep();
  }

  it('five copies at the same moment, when the storage fails the first: one image in the end', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'PUT /' });
    const first = instances.upload(bytes);
    await until(() => instances.proxy.hits > 0);
    const copies = [1, 2, 3, 4].map(() => instances.upload(bytes, { to: instances.healthy.url }));
    expectFailure(await first, 503, 'STORAGE_UNAVAILABLE');
    const answers = await Promise.all(copies);
    for (const answer of answers) await instances.expectReadable(answer);
    expect(new Set(answers.map(({ data }) => data?.id)).size).toBe(1);
    instances.proxy.pass();
    await untilTidy();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('a put that arrives only after its upload was given up leaves nothing once the sweeper ran', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'PUT /' });
    expectFailure(await instances.upload(bytes), 503, 'STORAGE_UNAVAILABLE');
    const before = (await instances.objects()).size;
    instances.proxy.pass();
    // Two tries of the same object.
    await until(async () => (await instances.objects()).size > before);
    await untilTidy();
  });
});
