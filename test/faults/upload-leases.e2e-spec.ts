import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { createHash, randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { APPOINTMENT, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

/** The longest time for which a crashed upload may block a retry, by the database's clock. */
const TAKEOVER_SECONDS = 10;

const WAIT_LIMIT_MS = 25_000;

type Answer = { readonly status: number; readonly code: string | undefined; readonly id: number | undefined };
type Row = { readonly id: number; readonly state: string };

describe('the lease of a pending upload', () => {
  /** The instance that keeps running. */
  let test: TestApp;
  /** A proxy between the database and the other instance, which is another process. */
  let proxy: CuttingProxy;
  /** A second proxy behind the first, for a second fault at the same time. */
  let secondProxy: CuttingProxy;
  let other: RunningProcess;
  let otherUrl: string;

  beforeAll(async () => {
    test = await TestApp.start({ SWEEP_INTERVAL_SECONDS: '0' });
    secondProxy = await CuttingProxy.start({ host: '127.0.0.1', port: test.postgres.port });
    const [host = '', port] = secondProxy.address.split(':');
    proxy = await CuttingProxy.start({ host, port: Number(port) });
    await startOther();
  });

  afterEach(async () => {
    proxy.pass();
    await expectTidyAfterSweep();
  });

  afterAll(async () => {
    other.signal('SIGKILL');
    await other.exit;
    await proxy.stop();
    await secondProxy.stop();
    await test.stop();
  });

  async function startOther(): Promise<void> {
    const port = await freePort();
    const url = new URL(test.settings.database.url);
    url.host = proxy.address;
    const { storage } = test.settings;
    otherUrl = `http://127.0.0.1:${port}`;
    other = new RunningProcess(['main.js'], {
      env: {
        ...TEST_ENVIRONMENT,
        PORT: String(port),
        APP_URL: test.settings.appUrl,
        DATABASE_URL: url.href,
        // This timeout is longer than the pauses of the tests.
        DATABASE_STATEMENT_TIMEOUT_MS: '60000',
        LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : undefined,
        SWEEP_INTERVAL_SECONDS: '0',
      },
      cwd: tmpdir(),
    });
    await other.printed(/"listening"/);
  }

  async function upload(
    url: string,
    bytes: Buffer,
    { key, limitMs = WAIT_LIMIT_MS }: { key?: string | undefined; limitMs?: number } = {},
  ): Promise<Answer> {
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }), 'photo.jpg');
    form.append('appointment_id', String(APPOINTMENT));
    const response = await fetch(`${url}/api/upload/chat-image`, {
      method: 'POST',
      body: form,
      headers: {
        authorization: `Bearer ${test.token(PATIENT)}`,
        ...(key === undefined ? {} : { 'idempotency-key': key }),
      },
      signal: AbortSignal.timeout(limitMs),
    });
    const body = (await response.json()) as Partial<Pick<UploadedChatImageResponseDto, 'data'>> &
      Partial<Pick<ErrorBodyDto, 'error_code'>>;
    return { status: response.status, code: body.error_code, id: body.data?.id };
  }

  const rowsOf = (bytes: Buffer): Promise<Row[]> =>
    test.database.query<Row[]>('SELECT id, state FROM chat_images WHERE sha256_sent = $1 ORDER BY id', [
      createHash('sha256').update(bytes).digest('hex'),
    ]);

  const statesOf = async (bytes: Buffer): Promise<string[]> =>
    (await rowsOf(bytes)).map(({ state }) => state);

  async function objects(): Promise<string[]> {
    const keys: string[] = [];
    for await (const { key } of test.app.get(StorageProvider).list('chat_images/')) keys.push(key);
    return keys;
  }

  /** Expects only stored rows, each with its picture and its thumbnail, after a sweep. */
  async function expectTidyAfterSweep(): Promise<void> {
    await test.database.query(
      `UPDATE chat_images SET created_at = created_at - interval '1 hour' WHERE state <> 'stored'`,
    );
    await test.app.get(UploadSweeper).sweep();
    const rows = await test.database.query<{ file_path: string; mime_type: string; state: string }[]>(
      'SELECT file_path, mime_type, state FROM chat_images',
    );
    expect(rows.filter(({ state }) => state !== 'stored')).toEqual([]);
    const keys = rows.flatMap(({ file_path: path, mime_type: type }) => [path, thumbnailKey(path, type)]);
    expect(await objects()).toEqual(keys.sort());
  }

  /** Lets most of the pending upload's lease pass. The first test waits for the whole lease. */
  const passLease = (): Promise<unknown> =>
    test.database.query(
      `UPDATE chat_images SET lease_until = lease_until - interval '6 seconds' WHERE state = 'pending'`,
    );

  it.each<[how: string, key: string | undefined, pass: () => Promise<unknown>]>([
    ['after its object was written', undefined, () => Promise.resolve()],
    ['after its object was written, with a key', randomUUID(), passLease],
  ])('ends when its process is killed %s, and a retry takes over', async (_, key, pass) => {
    const bytes = await picture('png');
    proxy.fail({ how: 'hold', at: 'commit-stored' });
    const cut = upload(otherUrl, bytes, { key }).catch(() => undefined);
    await eventually(() => proxy.hits > 0);
    other.signal('SIGKILL');
    const [row] = await test.database.query<{ left: number }[]>(
      `SELECT extract(epoch FROM lease_until - now())::float AS left FROM chat_images WHERE state = 'pending'`,
    );
    expect(row?.left).toBeLessThan(TAKEOVER_SECONDS);
    await pass();
    const retry = upload(test.url, bytes, { key });
    expect([await cut, await statesOf(bytes)]).toEqual([undefined, ['pending']]);
    const { status, id } = await retry;
    expect(status).toBe(200);
    // The statement of the dead process arrives late.
    proxy.pass();
    await eventually(() => proxy.underWay === 0);
    expect(await statesOf(bytes)).toEqual(['abandoned', 'stored']);
    expect(await upload(test.url, bytes, { key })).toMatchObject({ status: 200, id });
    await startOther();
  });

  it('is taken over by a single retry when two retries wait', async () => {
    const bytes = await picture('png');
    proxy.fail({ how: 'hold', at: 'commit-stored' });
    const cut = upload(otherUrl, bytes).catch(() => undefined);
    await eventually(() => proxy.hits > 0);
    other.signal('SIGKILL');
    await passLease();
    const retries = await Promise.all([1, 2].map(() => upload(test.url, bytes)));
    await cut;
    expect(retries.map(({ status }) => status)).toEqual([200, 200]);
    expect(retries[0]?.id).toBe(retries[1]?.id);
    expect(await statesOf(bytes)).toEqual(['abandoned', 'stored']);
    await startOther();
  });

  it('ends while its process is paused, which then stores nothing', async () => {
    const bytes = await picture('png');
    // The row exists, but its process has no response yet and has not written the object.
    proxy.fail({ how: 'hold answers', at: 'claim-upload' });
    const paused = upload(otherUrl, bytes, { limitMs: 60_000 });
    await eventually(async () => (await rowsOf(bytes)).length > 0);
    other.signal('SIGSTOP');
    await passLease();
    const retry = await upload(test.url, bytes);
    expect(retry.status).toBe(200);
    proxy.pass();
    other.signal('SIGCONT');
    expect(await paused).toMatchObject({ status: 503, code: 'OVERLOADED' });
    // A picture and a thumbnail for each row.
    expect(await objects()).toHaveLength(
      2 * (await test.database.query<Row[]>('SELECT FROM chat_images')).length,
    );
    expect(await statesOf(bytes)).toEqual(['abandoned', 'stored']);
    // The app retries like this.
    expect(await upload(otherUrl, bytes)).toMatchObject({ status: 200, id: retry.id });
  });

  it('is renewed during the upload, in a single statement for all leases', async () => {
    const pictures = await Promise.all([1, 2, 3].map(() => picture('png')));
    const [first = Buffer.alloc(0)] = pictures;
    proxy.fail({ how: 'hold', at: 'commit-stored' });
    const uploads = pictures.map((bytes) => upload(otherUrl, bytes));
    await eventually(() => proxy.hits === 3);
    const retry = upload(test.url, first);
    // This is longer than a lease without renewal.
    await eventually(async () => {
      const [leases] = await test.database.query<{ renewed: boolean; transactions: number }[]>(
        `SELECT bool_and(lease_until > created_at + interval '18 seconds') AS renewed, count(DISTINCT xmin::text) AS transactions
         FROM chat_images WHERE state = 'pending'`,
      );
      expect(leases?.transactions).toBeLessThanOrEqual(leases?.renewed ? 1 : 3);
      return leases?.renewed ?? false;
    });
    proxy.pass();
    const answers = await Promise.all(uploads);
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(await retry).toEqual(answers[0]);
    expect(await statesOf(first)).toEqual(['stored']);
    expect(await test.database.query('SELECT FROM chat_images WHERE lease_until IS NOT NULL')).toEqual([]);
  });

  it('is not needed to store: a failed renewal is only logged', async () => {
    const bytes = await picture('png');
    proxy.fail({ how: 'hold', at: 'commit-stored' });
    const cut = upload(otherUrl, bytes);
    await eventually(() => proxy.hits > 0);
    secondProxy.fail({ how: 'cut before', at: 'renew-leases' });
    await other.printed(/leases of 1 uploads are not renewed: DatabaseUnavailableError/);
    secondProxy.pass();
    proxy.pass();
    expect((await cut).status).toBe(200);
    expect((await fetch(`${otherUrl}/api/health/ready`)).status).toBe(200);
  });

  it('of a row from a version without leases lasts for the grace time', async () => {
    const bytes = await picture('png');
    const [row] = await test.database.query<Row[]>(
      `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, state, sha256_sent, created_at)
       VALUES ($1, $2, $2, $3, 3, 'image/png', 'pending', $4, now() - interval '117 seconds') RETURNING id`,
      [APPOINTMENT, `${randomUUID()}.png`, PATIENT, createHash('sha256').update(bytes).digest('hex')],
    );
    expect((await upload(test.url, bytes)).status).toBe(200);
    const [age] = await test.database.query<{ over: boolean }[]>(
      `SELECT now() > created_at + interval '120 seconds' AS over FROM chat_images WHERE id = $1`,
      [row?.id],
    );
    expect(age?.over).toBe(true);
    expect(await statesOf(bytes)).toEqual(['abandoned', 'stored']);
  });
});
