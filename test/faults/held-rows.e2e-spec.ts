import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { QueryRunner } from 'typeorm';
import { setTimeout } from 'node:timers/promises';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { hasPgBouncer, PgBouncer } from '../support/pgbouncer.js';
import { picture } from '../support/pictures.js';
import { DOCTOR, PATIENT, TestApp } from '../support/test-app.js';

const OTHERS = 100;

/** This time is longer than the lock timeout of shared statements. */
const PATIENT_WAIT_MS = 100;

/** The way of the service's database connections, and their number. */
const INSTALLATIONS: readonly (readonly [name: string, pooled: boolean, environment: NodeJS.ProcessEnv])[] = [
  ['on direct connections', false, {}],
  ['on direct connections, with the smallest connection pool', false, { DATABASE_POOL_SIZE: '3' }],
  ['through PgBouncer (skipped without PgBouncer)', true, {}],
];

describe.each(INSTALLATIONS)('a held row, %s', (_, pooled, environment) => {
  if (pooled && !hasPgBouncer()) {
    it.skip('delays only the requests for it', () => undefined);
    return;
  }
  let test: TestApp;
  let pooler: PgBouncer | undefined;
  let images: UploadedChatImageDto[];
  /** The connection that holds the row. */
  let holder: QueryRunner;

  beforeAll(async () => {
    test = await TestApp.start({ ...environment, MIGRATION_PHASE: '2' });
    if (pooled) {
      pooler = await PgBouncer.start(test.settings.database.url, { default_pool_size: '10' });
      await test.restart({ DATABASE_URL: pooler.url, DATABASE_POOLER: 'transaction' });
    }
    images = [];
    for (let count = 0; count < 3; count += 1) {
      const response = await test.upload(await picture('png'));
      images.push(((await response.json()) as UploadedChatImageResponseDto).data);
    }
    holder = test.database.createQueryRunner();
  });

  afterEach(async () => {
    if (holder.isTransactionActive) await holder.rollbackTransaction();
    // No row counts as held in the next test.
    for (const as of [PATIENT, DOCTOR]) while ((await ask(0, as)) !== 200);
    while ((await open(0)) !== 302);
  });

  afterAll(async () => {
    await holder.release();
    await test.stop();
    await pooler?.stop();
  });

  const image = (index: number): UploadedChatImageDto => {
    const found = images[index % images.length];
    if (!found) throw new Error('There are three.');
    return found;
  };

  async function hold(table: 'users' | 'chat_images', id: number): Promise<void> {
    await holder.startTransaction();
    await holder.query(`SELECT FROM ${table} WHERE id = $1 FOR UPDATE`, [id]);
  }

  async function ask(index: number, as: number): Promise<number> {
    return (await test.fetch(`/api/chat-images/${image(index).id}/signed-url`, { as })).status;
  }

  /** Opens the stable address, without a token. */
  async function open(index: number): Promise<number> {
    return (await test.fetch(new URL(image(index).media_url).pathname)).status;
  }

  /** The number of the service's connections that wait for a lock for at least so long. */
  async function waiting(forMs = 0): Promise<number> {
    const [row] = await test.database.query<{ count: number }[]>(
      `SELECT count(*) AS count FROM pg_stat_activity
       WHERE wait_event_type = 'Lock' AND query LIKE '%/* %' AND clock_timestamp() - query_start >= $1 * interval '1 ms'`,
      [forMs],
    );
    return row?.count ?? 0;
  }

  /** Waits until a connection waits for longer than a shared statement does. */
  async function someoneWaitsPatiently(): Promise<void> {
    while ((await waiting(PATIENT_WAIT_MS)) === 0);
  }

  /** The most connections that wait at the same time until the responses have come. */
  async function mostWaiting(answers: Promise<unknown>): Promise<number> {
    const ended = answers.then(() => true);
    let most = 0;
    while (!(await Promise.race([ended, setTimeout(5, false)]))) most = Math.max(most, await waiting());
    return most;
  }

  /** Expects the response to a request for a held row. */
  async function expectRefused(response: Response): Promise<void> {
    const { error_code: code } = (await response.json()) as ErrorBodyDto;
    expect([response.status, code, response.headers.get('retry-after')]).toEqual([
      503,
      'DATABASE_UNAVAILABLE',
      '5',
    ]);
  }

  const times = <T>(count: number, ask: (index: number) => Promise<T>): Promise<T[]> =>
    Promise.all(Array.from({ length: count }, (__, index) => ask(index)));

  it('of users delays only the requests of that user, on at most two connections', async () => {
    await hold('users', PATIENT);
    await expectRefused(
      await test.fetch(`/api/chat-images/${image(0).id}/signed-url`, { headers: authorization(PATIENT) }),
    );
    const held = times(60, (index) => ask(index, PATIENT));
    const most = mostWaiting(held);
    const others = await times(OTHERS, (index) => ask(index, DOCTOR));
    expect(others).toEqual(others.map(() => 200));
    expect(new Set(await held)).toEqual(new Set([503]));
    // One connection waits; a second may check briefly whether the row is still held.
    expect(await most).toBeLessThanOrEqual(2);
    await holder.rollbackTransaction();
    expect(await ask(0, PATIENT)).toBe(200);
  });

  it('in a shared statement does not delay the other requests of the statement', async () => {
    await hold('users', PATIENT);
    const answers = await times(OTHERS, (index) => ask(index, index % 4 === 0 ? PATIENT : DOCTOR));
    expect(answers).toEqual(answers.map((___, index) => (index % 4 === 0 ? 503 : 200)));
  });

  it('of chat_images delays only the requests for its image', async () => {
    const { id } = image(0);
    await hold('chat_images', id);
    expect(await ask(0, DOCTOR)).toBe(503);
    const held = times(30, () => ask(0, PATIENT));
    const most = mostWaiting(held);
    const others = await times(OTHERS, (index) => ask(1 + (index % 2), index % 2 ? PATIENT : DOCTOR));
    expect(others).toEqual(others.map(() => 200));
    expect(new Set(await held)).toEqual(new Set([503]));
    // One connection waits; a second may check briefly whether the row is still held.
    expect(await most).toBeLessThanOrEqual(2);
  });

  it('of chat_images delays only its own stable address for requests without a token', async () => {
    await hold('chat_images', image(0).id);
    expect(await open(0)).toBe(503);
    const held = times(60, () => open(0));
    const most = mostWaiting(held);
    const others = await times(OTHERS, (index) => open(1 + (index % 2)));
    expect(others).toEqual(others.map(() => 302));
    expect(new Set(await held)).toEqual(new Set([503]));
    // One connection waits; a second may check briefly whether the row is still held.
    expect(await most).toBeLessThanOrEqual(2);
  });

  it('that is released in time is answered 200 to the waiting request', async () => {
    await hold('users', PATIENT);
    const held = ask(0, PATIENT);
    await someoneWaitsPatiently();
    await holder.rollbackTransaction();
    expect(await held).toBe(200);
  });

  it('of users delays only the uploads of that user', async () => {
    await hold('users', PATIENT);
    const held = times(6, async () => (await test.upload(await picture('png'))).status);
    const others = await times(
      6,
      async () => (await test.upload(await picture('png'), { as: DOCTOR })).status,
    );
    expect(others).toEqual(others.map(() => 200));
    expect(new Set(await held)).toEqual(new Set([503]));
  });

  it('differs from a locked table, for which all requests wait together', async () => {
    await holder.startTransaction();
    await holder.query('LOCK TABLE chat_image_access');
    const answers = times(OTHERS, (index) => ask(index, index % 2 ? PATIENT : DOCTOR));
    await someoneWaitsPatiently();
    await holder.rollbackTransaction();
    expect(await answers).toEqual(Array.from({ length: OTHERS }, () => 200));
  });

  const authorization = (as: number): Record<string, string> => ({
    authorization: `Bearer ${test.token(as)}`,
  });
});
