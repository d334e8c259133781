import { afterEach, describe, expect, it, jest } from '@jest/globals';
import jwt from 'jsonwebtoken';
import { randomUUID } from 'node:crypto';
import { UnreadableSessionsError } from '../../src/auth/unreadable-sessions-error.js';
import { RequestDatabase } from '../../src/database/request-database.js';
import { createLogger } from '../../src/observability/logger.js';
import { createApp } from '../../src/server.js';
import { picture } from '../support/pictures.js';
import { APPOINTMENT, JWT_SECRET, PATIENT, TestApp } from '../support/test-app.js';

const TABLE = `CREATE TABLE user_sessions (
  id bigserial PRIMARY KEY, user_id bigint NOT NULL, jti varchar(64) NOT NULL UNIQUE,
  revoked_at timestamp(0) without time zone, expires_at timestamp(0) without time zone)`;

/** The statuses of a valid token on an unknown image, and of a refused token. */
const IN = 404;
const OUT = 401;

describe('a revoked token', () => {
  let test: TestApp;

  afterEach(async () => {
    jest.restoreAllMocks();
    await test.stop();
  });

  async function start(table: string, environment: NodeJS.ProcessEnv): Promise<void> {
    test = await TestApp.start(
      { REVOCATION_CACHE_SECONDS: '0', ...environment },
      table === '' ? [] : [table],
    );
  }

  const tokenOf = (jti?: string, userId = PATIENT): string =>
    jwt.sign({}, JWT_SECRET, {
      subject: String(userId),
      expiresIn: 60,
      ...(jti === undefined ? {} : { jwtid: jti }),
    });

  const ask = (
    token: string,
    path = '/api/chat-images/999/signed-url',
    init: RequestInit = {},
  ): Promise<Response> =>
    test.fetch(path, { ...init, headers: { ...(init.headers as object), authorization: `Bearer ${token}` } });

  const statusOf = async (token: string): Promise<number> => (await ask(token)).status;

  const addSession = (jti: string, revoked: boolean): Promise<unknown> =>
    test.database.query('INSERT INTO user_sessions (user_id, jti, revoked_at) VALUES ($1, $2, $3)', [
      PATIENT,
      jti,
      revoked ? new Date() : null,
    ]);

  it('gets 401, and a token without a revoked row in user_sessions is accepted', async () => {
    await start(TABLE, {});
    await addSession('revoked', true);
    await addSession('kept', false);
    const tokens = [
      tokenOf('revoked'),
      tokenOf('kept'),
      tokenOf('without a row'),
      tokenOf(),
      tokenOf('a\0b'),
    ];
    expect(await Promise.all(tokens.map(statusOf))).toEqual([OUT, IN, IN, IN, IN]);
    await test.database.query(`UPDATE user_sessions SET revoked_at = now() WHERE jti = 'kept'`);
    expect(await statusOf(tokens[1] ?? '')).toBe(OUT);
  });

  it('gets 401 on every route, before the body of an upload is read', async () => {
    await start(TABLE, {});
    await addSession('revoked', true);
    const token = tokenOf('revoked');
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(await picture('png'))]), 'a.png');
    form.append('appointment_id', String(APPOINTMENT));
    const json = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"ids":[1]}' };
    for (const [path, init] of [
      ['/api/upload/chat-image', { method: 'POST', body: form }],
      ['/api/chat-images/1/signed-url', {}],
      ['/api/chat-images/1', {}],
      ['/api/chat-images/signed-urls', json],
      [`/api/appointments/${APPOINTMENT}/chat-images`, {}],
      ['/storage/chat_images/appointment_1/x.jpg', {}],
    ] as const) {
      const response = await ask(token, path, init);
      expect([path, response.status, response.headers.get('www-authenticate')]).toEqual([
        path,
        OUT,
        'Bearer',
      ]);
    }
    expect(await test.database.query('SELECT FROM chat_images')).toEqual([]);
    const unread = await ask(token, '/api/upload/chat-image', {
      method: 'POST',
      headers: { 'content-type': 'text/plain' },
    });
    // The service would refuse this body with 415.
    expect(unread.status).toBe(OUT);
  });

  it('is looked up once in REVOCATION_CACHE_SECONDS, also by concurrent requests', async () => {
    await start(TABLE, { REVOCATION_CACHE_SECONDS: '1' });
    const run = jest.spyOn(test.app.get(RequestDatabase), 'runShared');
    const lookUps = (): number =>
      run.mock.calls.filter(([{ name }]) => name.startsWith('find-revoked')).length;
    const token = tokenOf('busy');
    await Promise.all(Array.from({ length: 50 }, () => ask(token)));
    expect(lookUps()).toBeLessThanOrEqual(3);
    const before = lookUps();
    expect(await statusOf(token)).toBe(IN);
    expect(lookUps()).toBe(before);
    await addSession('busy', true);
    const revokedAt = performance.now();
    let status = IN;
    while (status === IN) status = await statusOf(token);
    expect(status).toBe(OUT);
    expect(performance.now() - revokedAt).toBeLessThan(5000);
  });

  it('is found when the column jti is a uuid, and other texts are accepted', async () => {
    await start(TABLE.replace('varchar(64)', 'uuid'), {});
    const jti = randomUUID();
    await addSession(jti, true);
    expect(
      await Promise.all([tokenOf(jti), tokenOf(jti.toUpperCase()), tokenOf('text')].map(statusOf)),
    ).toEqual([OUT, OUT, IN]);
  });

  it('is not looked up when the table user_sessions is missing', async () => {
    await start('', { REVOCATION_CACHE_SECONDS: '30' });
    const run = jest.spyOn(test.app.get(RequestDatabase), 'runShared');
    expect(await statusOf(tokenOf('any'))).toBe(IN);
    expect(run.mock.calls.map(([{ name }]) => name)).toEqual(['decide-images']);
  });

  it('is found in a table user_sessions that is created later, until it is dropped', async () => {
    await start('', {});
    expect(await statusOf(tokenOf('x'))).toBe(IN);
    await test.database.query(TABLE);
    await addSession('x', true);
    let status = IN;
    for (const deadline = Date.now() + 10_000; status === IN && Date.now() < deadline;)
      status = await statusOf(tokenOf('x'));
    expect(status).toBe(OUT);
    await test.database.query('DROP TABLE user_sessions');
    expect(await statusOf(tokenOf('x'))).toBe(IN);
  });

  it('needs a role that may read user_sessions: the service does not start without it', async () => {
    await start(TABLE, {});
    await test.database.query(`CREATE ROLE blind LOGIN PASSWORD 'blind'`);
    const url = new URL(test.settings.database.url);
    url.username = 'blind';
    url.password = 'blind';
    const settings = { ...test.settings, port: 0, database: { ...test.settings.database, url: url.href } };
    const refused = createApp(settings, createLogger('silent')).then((app) => app.init());
    await expect(refused).rejects.toBeInstanceOf(UnreadableSessionsError);
  });
});
