import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { tmpdir } from 'node:os';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { APPOINTMENT, DOCTOR, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

const usersWith = (columns: string): string => `CREATE TABLE users (id bigserial PRIMARY KEY, ${columns})`;

const DELETED_AT = 'deleted_at timestamp(0) without time zone';

type ImageData = UploadedChatImageResponseDto['data'];

/** Asks as the doctor on every route that checks users. Resolves to the statuses, with error codes. */
async function answersTo(test: TestApp, image: ImageData): Promise<readonly string[]> {
  const json = { 'content-type': 'application/json' };
  const responses = await Promise.all([
    test.fetch(`/api/chat-images/${image.id}/signed-url`, { as: DOCTOR }),
    test.fetch(`/api/chat-images/${image.id}`, { as: DOCTOR }),
    test.fetch(`/api/appointments/${APPOINTMENT}/chat-images`, { as: DOCTOR }),
    test.fetch(new URL(image.media_url).pathname, { as: DOCTOR }),
    test.fetch('/api/chat-images/signed-urls', {
      method: 'POST',
      headers: json,
      body: JSON.stringify({ ids: [image.id, 999] }),
      as: DOCTOR,
    }),
    test.upload(await picture('png'), { as: DOCTOR }),
    // The service would refuse this body with 415, but does not read it.
    test.fetch('/api/upload/chat-image', { method: 'POST', headers: json, body: '{}', as: DOCTOR }),
  ]);
  return Promise.all(
    responses.map(async (response) =>
      response.status < 400
        ? String(response.status)
        : `${response.status} ${((await response.json()) as ErrorBodyDto).error_code}`,
    ),
  );
}

const IN = ['200', '200', '200', '302', '200', '200', '415 UNSUPPORTED_MEDIA_TYPE'];
const OUT = IN.map(() => '401 UNAUTHENTICATED');

describe.each([
  ['none', 'boolean NOT NULL DEFAULT true', 'false', 'true'],
  ['none', 'smallint NOT NULL DEFAULT 1', '0', '1'],
  ['none', 'integer DEFAULT 1', 'NULL', '2'],
  ['transaction', 'boolean DEFAULT true', 'NULL', 'true'],
])('with DATABASE_POOLER=%s and "Is_Active" as %s, a user', (DATABASE_POOLER, type, off, on) => {
  let test: TestApp;
  let image: ImageData;

  beforeAll(async () => {
    test = await TestApp.start({ DATABASE_POOLER, USERS_ACTIVE_COLUMN: 'Is_Active' }, [
      usersWith(`"Is_Active" ${type}, is_active boolean DEFAULT false, ${DELETED_AT}`),
    ]);
    const uploaded = await test.upload(await picture('png'));
    image = ((await uploaded.json()) as UploadedChatImageResponseDto).data;
  });

  afterEach(() => test.database.query('DELETE FROM chat_image_access'));

  afterAll(() => test.stop());

  const setDoctor = (sql: string): Promise<unknown> =>
    test.database.query(`UPDATE users SET ${sql} WHERE id = ${DOCTOR}`);

  const recorded = async (): Promise<number> =>
    (await test.database.query<unknown[]>('SELECT FROM chat_image_access')).length;

  it.each([
    ['switched off', `"Is_Active" = ${off}`, `"Is_Active" = ${on}`],
    ['deleted', 'deleted_at = now()', 'deleted_at = NULL'],
  ])('gets 401 on every route while %s, and has access again afterwards', async (_, away, back) => {
    expect(await answersTo(test, image)).toEqual(IN);
    const before = await recorded();
    const images = await test.database.query<unknown[]>('SELECT FROM chat_images');
    await setDoctor(away);
    expect(await answersTo(test, image)).toEqual(OUT);
    expect(await recorded()).toBe(before);
    expect(await test.database.query('SELECT FROM chat_images')).toHaveLength(images.length);
    // The patient still has access.
    expect((await test.fetch(`/api/chat-images/${image.id}`, { as: PATIENT })).status).toBe(200);
    await setDoctor(back);
    expect(await answersTo(test, image)).toEqual(IN);
  });
});

describe('the columns is_active and deleted_at of users', () => {
  let test: TestApp;

  afterEach(() => test.stop());

  const imageOf = async (): Promise<ImageData> => {
    const uploaded = await test.upload(await picture('png'));
    return ((await uploaded.json()) as UploadedChatImageResponseDto).data;
  };

  it('switch off no user without deleted_at and USERS_ACTIVE_COLUMN', async () => {
    test = await TestApp.start({}, [usersWith('is_active boolean DEFAULT false')]);
    expect(await answersTo(test, await imageOf())).toEqual(IN);
  });

  it('may change their type or be dropped while the service runs', async () => {
    test = await TestApp.start({ USERS_ACTIVE_COLUMN: 'is_active' }, [
      usersWith(`is_active boolean DEFAULT true, ${DELETED_AT}`),
    ]);
    const image = await imageOf();
    await test.database.query(`UPDATE users SET deleted_at = now() WHERE id = ${DOCTOR}`);
    expect(await answersTo(test, image)).toEqual(OUT);
    await test.database.query('ALTER TABLE users DROP COLUMN deleted_at');
    expect(await answersTo(test, image)).toEqual(IN);
    await test.database.query(`ALTER TABLE users ALTER is_active DROP DEFAULT,
      ALTER is_active TYPE smallint USING CASE WHEN id = ${DOCTOR} THEN 0 ELSE 1 END`);
    expect(await answersTo(test, image)).toEqual(OUT);
    await test.database.query('UPDATE users SET is_active = 1');
    expect(await answersTo(test, image)).toEqual(IN);
    // Without the configured column nobody has access.
    await test.database.query('ALTER TABLE users DROP COLUMN is_active');
    expect(await answersTo(test, image)).toEqual(IN.map(() => '500 INTERNAL_ERROR'));
  });
});

describe('the start of the service', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start({}, [
      usersWith(`email text, status text DEFAULT 'on', is_active boolean DEFAULT true, ${DELETED_AT}`),
    ]);
    await test.database.query(`
      CREATE ROLE serving LOGIN PASSWORD 'serving';
      GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO serving;
      GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO serving;
      REVOKE SELECT ON users FROM serving;
      GRANT SELECT (id) ON users TO serving`);
  });

  afterAll(() => test.stop());

  function run(program: string, over: NodeJS.ProcessEnv): RunningProcess {
    const url = new URL(test.settings.database.url);
    url.username = 'serving';
    url.password = 'serving';
    const { storage } = test.settings;
    return new RunningProcess([program], {
      env: {
        ...TEST_ENVIRONMENT,
        PORT: '0',
        DATABASE_URL: url.href,
        LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : '',
        ...over,
      },
      cwd: tmpdir(),
    });
  }

  it.each([
    ['activated', /^USERS_ACTIVE_COLUMN names activated, which is no column of users\.$/m],
    [
      'status',
      /^USERS_ACTIVE_COLUMN names status, which is text: it must be a boolean or a whole number\.$/m,
    ],
    [
      'is_active',
      /^USERS_ACTIVE_COLUMN names .*: GRANT SELECT \(is_active\) ON users to the role of DATABASE_URL\.$/m,
    ],
  ])('fails with one line for USERS_ACTIVE_COLUMN=%s, as npm run check does', async (column, line) => {
    const service = run('main.js', { USERS_ACTIVE_COLUMN: column });
    expect([await service.exit, service.output]).toEqual([1, expect.stringMatching(line)]);
    expect(service.output).not.toMatch(/\n +at /);
    const check = run('commands/check.js', { USERS_ACTIVE_COLUMN: column });
    expect(await check.exit).toBe(1);
    expect(check.output).toMatch(/^wrong +switched-off users +USERS_ACTIVE_COLUMN names /m);
  });

  it('logs a warning when the role can not read deleted_at', async () => {
    const service = run('main.js', {});
    await service.printed(/"listening"/);
    service.signal('SIGTERM');
    expect(await service.exit).toBe(0);
    const grant = 'GRANT SELECT (deleted_at) ON users to the role of DATABASE_URL';
    expect(service.output.split('\n').filter((line) => line.includes(grant))).toEqual([
      expect.stringContaining('"level":"warn"'),
    ]);
    const check = run('commands/check.js', {});
    expect(await check.exit).toBe(1);
    expect(check.output).toMatch(/^wrong +switched-off users +users that are deleted/m);
    expect(check.output).toContain(grant);
    await test.database.query('GRANT SELECT (deleted_at, is_active) ON users TO serving');
    const granted = run('commands/check.js', { USERS_ACTIVE_COLUMN: 'is_active' });
    expect(await granted.exit).toBe(0);
    expect(granted.output).toMatch(/^ok +switched-off users +/m);
  });
});
