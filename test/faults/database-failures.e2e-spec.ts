import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { DatabaseUnavailableError, toDatabaseFailure } from '../../src/database/database-failure.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { picture } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, TestApp } from '../support/test-app.js';

/** The database user of the service, which a test may lock out. */
const ROLE = 'the_service';

describe('the service with a database that fails requests', () => {
  let test: TestApp;
  let image: UploadedChatImageDto;

  beforeAll(async () => {
    test = await TestApp.start(
      { DATABASE_CONNECT_TIMEOUT_MS: '1000', DATABASE_STATEMENT_TIMEOUT_MS: '1000' },
      [`CREATE ROLE ${ROLE} LOGIN PASSWORD 'secret'`],
    );
    image = ((await (await test.upload(await picture('png'))).json()) as UploadedChatImageResponseDto).data;
    await test.database.query(
      `GRANT ALL ON ALL TABLES IN SCHEMA public TO ${ROLE}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO ${ROLE}`,
    );
    const url = new URL(test.settings.database.url);
    url.username = ROLE;
    url.password = 'secret';
    await test.restart({ DATABASE_URL: url.href });
  });

  afterAll(() => test.stop());

  const ask = (): Promise<Response> => test.fetch(`/api/chat-images/${image.id}/signed-url`, { as: DOCTOR });

  /** Asks for readiness until it changes, as the response is cached for a second. */
  const becomesReady = async (ready: boolean): Promise<void> => {
    while ((await test.fetch('/api/health/ready')).ok !== ready);
  };

  /** Resolves when they have ended. */
  const endConnections = (): Promise<unknown> =>
    test.database.query('SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename = $1', [
      ROLE,
    ]);

  const superuser = async (...statements: string[]): Promise<void> => {
    for (const statement of statements) await test.database.query(statement);
  };

  async function expectUnavailable(response: Response): Promise<void> {
    const { error_code: code } = (await response.json()) as ErrorBodyDto;
    expect([response.status, code, response.headers.get('retry-after')]).toEqual([
      503,
      'DATABASE_UNAVAILABLE',
      '5',
    ]);
  }

  const faults: [what: string, begin: () => Promise<unknown>, end: () => Promise<unknown>][] = [
    [
      'the database is read-only, like a standby',
      () => superuser(`ALTER ROLE ${ROLE} SET default_transaction_read_only = on`).then(endConnections),
      () => superuser(`ALTER ROLE ${ROLE} RESET default_transaction_read_only`).then(endConnections),
    ],
    [
      'the database has no connection left',
      () => superuser(`ALTER ROLE ${ROLE} CONNECTION LIMIT 0`).then(endConnections),
      () => superuser(`ALTER ROLE ${ROLE} CONNECTION LIMIT -1`),
    ],
    [
      'the database refuses the password',
      () => superuser(`ALTER ROLE ${ROLE} PASSWORD 'changed'`).then(endConnections),
      () => superuser(`ALTER ROLE ${ROLE} PASSWORD 'secret'`),
    ],
    [
      'the database denies CONNECT',
      () => superuser('REVOKE CONNECT ON DATABASE test FROM PUBLIC').then(endConnections),
      () => superuser('GRANT CONNECT ON DATABASE test TO PUBLIC'),
    ],
    [
      'the role has NOLOGIN',
      () => superuser(`ALTER ROLE ${ROLE} NOLOGIN`).then(endConnections),
      () => superuser(`ALTER ROLE ${ROLE} LOGIN`),
    ],
  ];

  it.each(faults)(
    'answers 503 to requests and readiness while %s, and 200 afterwards',
    async (_, begin, end) => {
      expect((await ask()).status).toBe(200);
      await becomesReady(true);
      await begin();
      try {
        await expectUnavailable(await ask());
        await expectUnavailable(await test.upload(await picture('png')));
        await expectUnavailable(
          await test.fetch(`/api/appointments/${APPOINTMENT}/chat-images?signed_urls=true`, { as: DOCTOR }),
        );
        await becomesReady(false);
        // Liveness does not depend on the database.
        expect((await test.fetch('/api/health')).status).toBe(200);
      } finally {
        await end();
      }
      expect((await ask()).status).toBe(200);
      await becomesReady(true);
    },
  );

  it('replaces its open connections when the database becomes read-only', async () => {
    const readOnly = async (mode: string): Promise<void> => {
      const session = test.database.createQueryRunner();
      await session.query('SET default_transaction_read_only = off');
      await session.query(`ALTER SYSTEM SET default_transaction_read_only = ${mode}`);
      await session.query('SELECT pg_reload_conf()');
      await session.release();
    };
    const connections = async (): Promise<number[]> =>
      (
        await test.database.query<{ pid: number }[]>(
          'SELECT pid FROM pg_stat_activity WHERE usename = $1 AND application_name LIKE $2',
          [ROLE, '% requests'],
        )
      ).map(({ pid }) => pid);
    await ask();
    const before = await connections();
    await readOnly('on');
    try {
      // Each connection reloads the setting at its own time.
      while ((await ask()).status === 200);
      // There are as many requests as connections, so that each connection fails once.
      for (let left = before.length; left > 0; left -= 1) await expectUnavailable(await ask());
      await becomesReady(false);
    } finally {
      await readOnly('off');
    }
    while ((await ask()).status !== 200);
    const after = await connections();
    expect(after.filter((pid) => before.includes(pid))).toEqual([]);
  });

  it('answers 503 when its connection is terminated, and 200 to the next request', async () => {
    const holder = test.database.createQueryRunner();
    await holder.startTransaction();
    await holder.query('LOCK TABLE chat_image_access');
    const answer = ask();
    for (let waiting = false; !waiting;) {
      const rows = await test.database.query<unknown[]>(
        `SELECT FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'`,
        [ROLE],
      );
      waiting = rows.length > 0;
    }
    await endConnections();
    await expectUnavailable(await answer);
    await holder.rollbackTransaction();
    await holder.release();
    expect((await ask()).status).toBe(200);
  });

  it('opens at most DATABASE_POOL_SIZE connections, and works with three', async () => {
    await test.restart({ DATABASE_POOL_SIZE: '3' });
    const answers = await Promise.all([
      ...Array.from({ length: 100 }, ask),
      ...Array.from({ length: 10 }, async () => test.upload(await picture('png'))),
      ...Array.from({ length: 10 }, () => test.fetch(`/api/chat-images/${image.id}`, { as: DOCTOR })),
    ]);
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    const [row] = await test.database.query<{ held: number }[]>(
      `SELECT count(*) AS held FROM pg_stat_activity WHERE usename = $1`,
      [ROLE],
    );
    expect(row?.held).toBeLessThanOrEqual(3);
  });
});

describe('toDatabaseFailure', () => {
  const ofServer = (code: string): pg.DatabaseError =>
    Object.assign(new pg.DatabaseError('x', 1, 'error'), { code });

  it.each([
    '08006',
    '25006',
    '25P02',
    '28P01',
    '3D000',
    '40001',
    '40P01',
    '53100',
    '53300',
    '55P03',
    '57014',
    '57P01',
    '57P03',
    '57P05',
    '58030',
    'F0000',
    'XX000',
    'XX001',
  ])('reports SQLSTATE %s as an unavailable database', (code) => {
    expect(toDatabaseFailure(ofServer(code))).toBeInstanceOf(DatabaseUnavailableError);
  });

  it.each(['22P02', '23503', '23505', '42501', '42601', '42P01', '55000', 'P0001'])(
    'reports SQLSTATE %s as an error of the statement',
    (code) => {
      const error = ofServer(code);
      expect(toDatabaseFailure(error)).toBe(error);
    },
  );

  it('reports connection errors as an unavailable database, and TypeErrors unchanged', () => {
    for (const error of [
      new Error('Connection terminated unexpectedly'),
      Object.assign(new Error('x'), { code: 'ENETUNREACH' }),
      new AggregateError([]),
    ])
      expect(toDatabaseFailure(error)).toBeInstanceOf(DatabaseUnavailableError);
    for (const error of [new TypeError('x'), new RangeError('x')])
      expect(toDatabaseFailure(error)).toBe(error);
  });
});
