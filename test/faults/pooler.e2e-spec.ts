import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { tmpdir } from 'node:os';
import { setTimeout } from 'node:timers/promises';
import { DataSource } from 'typeorm';
import { UploadLeases } from '../../src/uploads/upload-leases.js';
import { UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { loadSettings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { migrationDataSourceOptions } from '../../src/database/data-source-options.js';
import { DatabaseUnavailableError, sqlState } from '../../src/database/database-failure.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { migrateUp } from '../../src/database/migrate.js';
import { preparedStatement } from '../../src/database/prepared-statement.js';
import { RequestDatabase } from '../../src/database/request-database.js';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { createLogger } from '../../src/observability/logger.js';
import { createApp } from '../../src/server.js';
import { hasPgBouncer, PgBouncer } from '../support/pgbouncer.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

const STATEMENT_TIMEOUT_MS = 1500;

const describeWithPgBouncer = hasPgBouncer() ? describe : describe.skip;

describeWithPgBouncer('the service behind PgBouncer in transaction mode (skipped without PgBouncer)', () => {
  /** This application has direct database connections. */
  let test: TestApp;
  let pooler: PgBouncer;
  let instances: readonly { readonly app: NestExpressApplication; readonly url: string }[];

  beforeAll(async () => {
    test = await TestApp.start();
    // Three instances share as few connections as the smallest plans have.
    pooler = await PgBouncer.start(test.settings.database.url, { default_pool_size: '5' });
    instances = await Promise.all([1, 2, 3].map(() => startInstance()));
  });

  afterAll(async () => {
    for (const { app } of instances) {
      app.getHttpServer().closeAllConnections();
      await app.close();
    }
    await pooler.stop();
    await test.stop();
  });

  function environment(over: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
    const { storage } = test.settings;
    return {
      ...TEST_ENVIRONMENT,
      LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : '',
      DATABASE_URL: pooler.url,
      DATABASE_POOLER: 'transaction',
      DATABASE_STATEMENT_TIMEOUT_MS: String(STATEMENT_TIMEOUT_MS),
      SWEEP_INTERVAL_SECONDS: '0',
      ...over,
    };
  }

  async function startInstance(): Promise<{ app: NestExpressApplication; url: string }> {
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const settings = loadSettings(environment({ APP_URL: url, PORT: String(port) }));
    const app = await createApp(settings, createLogger('silent'));
    await app.listen(port, '127.0.0.1');
    return { app, url };
  }

  const instance = (index: number): { app: NestExpressApplication; url: string } => {
    const found = instances[index % instances.length];
    if (!found) throw new Error('There are three.');
    return found;
  };

  const headers = (as: number, more: Record<string, string> = {}): Record<string, string> => ({
    authorization: `Bearer ${test.token(as)}`,
    ...more,
  });

  async function upload(index: number, bytes: Uint8Array, key?: string): Promise<Response> {
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }), 'photo.jpg');
    form.append('appointment_id', String(APPOINTMENT));
    return fetch(`${instance(index).url}/api/upload/chat-image`, {
      method: 'POST',
      body: form,
      headers: headers(PATIENT, key === undefined ? {} : { 'idempotency-key': key }),
    });
  }

  const count = async (from: string): Promise<number> => {
    const [row] = await test.database.query<{ rows: number }[]>(`SELECT count(*) AS rows FROM ${from}`);
    return row?.rows ?? NaN;
  };

  it('handles 200 concurrent requests and uploads in three instances correctly', async () => {
    const first = (await (await upload(0, await picture('png'))).json()) as UploadedChatImageResponseDto;
    const { id } = first.data;
    await test.database.query('DELETE FROM chat_image_access');
    const pictures = await Promise.all(Array.from({ length: 20 }, () => picture('png')));
    const asks = Array.from({ length: 160 }, (_, index) => ({
      index,
      as: [PATIENT, DOCTOR, OUTSIDER, DOCTOR][index % 4] ?? PATIENT,
    }));
    const [answers, uploads, listed] = await Promise.all([
      Promise.all(
        asks.map(({ index, as }) =>
          fetch(`${instance(index).url}/api/chat-images/${id}/signed-url`, { headers: headers(as) }),
        ),
      ),
      // Each picture is sent twice at the same time, as the same bytes or with the same key.
      Promise.all(
        [...pictures, ...pictures].map((bytes, index) =>
          upload(index, bytes, index % 20 < 10 ? undefined : `key ${index % 20}`.replace(' ', '-')),
        ),
      ),
      fetch(`${instance(0).url}/api/appointments/${APPOINTMENT}/chat-images?signed_urls=true&limit=1`, {
        headers: headers(DOCTOR),
      }),
    ]);
    expect(answers.map(({ status }) => status)).toEqual(asks.map(({ as }) => (as === OUTSIDER ? 403 : 200)));
    expect(uploads.map(({ status }) => status)).toEqual(uploads.map(() => 200));
    expect(listed.status).toBe(200);
    expect(await count(`chat_images WHERE state = 'stored'`)).toBe(21);
    expect(await count(`chat_images WHERE state <> 'stored'`)).toBe(0);
    // Each URL has an audit row: 120 requests, 40 uploads and a page of one image.
    expect(await count('chat_image_access')).toBe(120 + 40 + 1);
  });

  it('leaves no prepared statement, lock or setting on a connection', async () => {
    expect(await count(`pg_locks WHERE locktype = 'advisory'`)).toBe(0);
    const look = preparedStatement('look', `SELECT count(*)::int AS named FROM pg_prepared_statements`);
    expect(await instance(0).app.get(RequestDatabase).run(look, [])).toEqual([{ named: 0 }]);
    const others = await new DataSource(
      migrationDataSourceOptions(loadSettings(environment({ APP_URL: 'http://x' })).database, ENTITIES),
    ).initialize();
    const [state] = await others.query<unknown[]>(
      `SELECT current_setting('statement_timeout') AS statement, current_setting('lock_timeout') AS lock, current_setting('enable_seqscan') AS scan`,
    );
    await others.destroy();
    expect(state).toEqual({ statement: '0', lock: '0', scan: 'on' });
  });

  it('cancels a slow statement and a lock wait on the database server', async () => {
    const database = instance(0).app.get(RequestDatabase);
    const tooLong = await database
      .run(preparedStatement('too-long', 'SELECT pg_sleep(30)'), [])
      .catch((error: unknown) => error);
    expect(tooLong).toBeInstanceOf(DatabaseUnavailableError);
    expect(sqlState(tooLong)).toBe('57014');
    const holder = test.database.createQueryRunner();
    await holder.startTransaction();
    await holder.query('SELECT FROM users WHERE id = $1 FOR UPDATE', [DOCTOR]);
    const update = preparedStatement('held', 'UPDATE users SET id = id WHERE id = $1');
    const held = await database.run(update, [DOCTOR]).catch((error: unknown) => error);
    expect(sqlState(held)).toBe('55P03');
    await holder.rollbackTransaction();
    await holder.release();
  });

  it('rolls back a failed statement, and reuses the connection', async () => {
    const database = instance(0).app.get(RequestDatabase);
    const insert = preparedStatement('insert-twice', 'INSERT INTO users (id) VALUES ($1), (1)');
    for (let round = 0; round < 20; round += 1) {
      const failure = await database.run(insert, [1000 + round]).catch((error: unknown) => error);
      expect(sqlState(failure)).toBe('23505');
    }
    expect(await count('users WHERE id >= 1000')).toBe(0);
    expect(await database.run(preparedStatement('one', 'SELECT 1 AS one'), [])).toEqual([{ one: 1 }]);
  });

  it('sweeps each upload and object once, in three concurrent instances', async () => {
    const { body } = await upload(0, await picture('png'));
    await body?.cancel();
    await test.database.query(
      `UPDATE chat_images SET state = 'abandoned', created_at = now() - interval '1 hour'`,
    );
    const rows = await count('chat_images');
    const sweeps = await Promise.all(instances.map(({ app }) => app.get(UploadSweeper).sweep()));
    const sum = (of: 'uploads' | 'objects' | 'failures'): number =>
      sweeps.reduce((total, sweep) => total + sweep[of], 0);
    // Each may have a picture and a thumbnail.
    expect([sum('uploads'), sum('objects'), sum('failures')]).toEqual([rows, 2 * rows, 0]);
    expect(await count('chat_image_tombstones')).toBe(0);
  });

  it('renews the lease of a running upload', async () => {
    const [row] = await test.database.query<{ id: number }[]>(
      `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, state, lease_until)
       VALUES ($1, 'p', 'p', $2, 3, 'image/png', 'pending', now()) RETURNING id`,
      [APPOINTMENT, PATIENT],
    );
    const id = row?.id ?? NaN;
    await instance(0)
      .app.get(UploadLeases)
      .renewDuring(id, async () => {
        while ((await count(`chat_images WHERE id = ${id} AND lease_until > now()`)) === 0)
          await setTimeout(50);
      });
    await test.database.query('DELETE FROM chat_images WHERE id = $1', [id]);
  });

  it('answers 503 while PgBouncer is down, and 200 afterwards', async () => {
    const { data } = (await (await upload(0, await picture('png'))).json()) as UploadedChatImageResponseDto;
    const ask = (): Promise<Response> =>
      fetch(`${instance(1).url}/api/chat-images/${data.id}/signed-url`, { headers: headers(DOCTOR) });
    await pooler.halt();
    const away = await ask();
    expect([away.status, away.headers.get('retry-after')]).toEqual([503, '5']);
    expect((await fetch(`${instance(1).url}/api/health/ready`)).status).toBe(503);
    await pooler.resume();
    expect((await ask()).status).toBe(200);
    // The response is cached for a second.
    while ((await fetch(`${instance(1).url}/api/health/ready`)).status !== 200);
  });

  it('runs migrations once when two instances migrate at the same time', async () => {
    const ownUrl = await test.postgres.database('pooled-migration');
    const { database } = loadSettings(
      environment({ APP_URL: 'http://x', DATABASE_URL: pooler.url.replace(/[^/]+$/, 'pooled-migration') }),
    );
    expect(new URL(ownUrl).pathname).toBe('/pooled-migration');
    const sources = await Promise.all(
      [1, 2].map(() => new DataSource(migrationDataSourceOptions(database, ENTITIES)).initialize()),
    );
    const runs = await Promise.all(sources.map((source) => migrateUp(source)));
    expect(runs.filter((names) => names.length > 0)).toHaveLength(1);
    for (const source of sources) await source.destroy();
    expect(await count(`pg_locks WHERE locktype = 'advisory'`)).toBe(0);
  });

  it.each([
    ['none', /^wrong +database address +a connection pooler: set DATABASE_POOLER=transaction/m],
    ['transaction', /^ok +database address /m],
  ])('gets the right finding of npm run check with DATABASE_POOLER=%s', async (setting, line) => {
    const child = new RunningProcess(['commands/check.js'], {
      env: environment({ APP_URL: 'http://localhost', DATABASE_POOLER: setting }),
      cwd: tmpdir(),
    });
    await child.exit;
    expect(child.output).toMatch(line);
  });

  it.each([
    ['with the default configuration', {}],
    [
      'with ignored start-up parameters',
      { ignore_startup_parameters: 'statement_timeout, lock_timeout, options' },
    ],
  ])('does not start without DATABASE_POOLER, %s, and one line says what to set', async (_, settings) => {
    const other = await PgBouncer.start(test.settings.database.url, settings);
    try {
      const child = new RunningProcess(['main.js'], {
        env: environment({
          APP_URL: 'http://localhost',
          PORT: '0',
          DATABASE_URL: other.url,
          DATABASE_POOLER: '',
        }),
        cwd: tmpdir(),
      });
      expect(await child.exit).toBe(1);
      expect(child.output.trim().split('\n')).toEqual([
        expect.stringMatching(/^DATABASE_URL leads to a connection pooler: set DATABASE_POOLER=transaction/),
      ]);
    } finally {
      await other.stop();
    }
  });
});
