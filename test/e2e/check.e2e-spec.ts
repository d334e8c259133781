import {
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteBucketCorsCommand,
  DeleteBucketPolicyCommand,
  DeleteObjectCommand,
  ListObjectsV2Command,
  PutBucketAclCommand,
  PutBucketCorsCommand,
  PutBucketPolicyCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { NEEDED_RIGHTS } from '../../src/check/database-rights.js';
import { readColumns } from '../../src/check/main-tables.js';
import type { Finding } from '../../src/check/finding.js';
import { checkInstallation } from '../../src/check/installation-check.js';
import { RunningProcess } from '../support/run-process.js';
import { refusal, S3Answers } from '../support/s3-answers.js';
import { s3Environment } from '../support/s3-environment.js';
import { JWT_SECRET, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

const ORIGIN = 'https://app.example.com';

let test: TestApp;
let folder: string;

beforeAll(async () => {
  test = await TestApp.start();
  folder = await mkdtemp(join(tmpdir(), 'chat-image-store-check-'));
});

afterAll(async () => {
  await test.stop();
  await rm(folder, { recursive: true });
});

/** The settings of a correct installation: those of the running application, on the local driver. */
const environment = (over: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({
  ...TEST_ENVIRONMENT,
  APP_URL: test.settings.appUrl,
  DATABASE_URL: test.settings.database.url,
  LOCAL_STORAGE_DIR: folder,
  ...over,
});

async function check(over: NodeJS.ProcessEnv = {}): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for await (const finding of checkInstallation(environment(over))) findings.push(finding);
  return findings;
}

/** The finding about one thing, as `status: message`. */
function said(findings: readonly Finding[], name: string): string {
  const about = findings.filter((finding) => finding.name === name);
  return about.map(({ status, message }) => `${status}: ${message}`).join('\n');
}

const wrongNames = (findings: readonly Finding[]): readonly string[] =>
  findings.filter(({ status }) => status === 'wrong').map(({ name }) => name);

describe('npm run check', () => {
  async function run(
    args: string[],
    over: NodeJS.ProcessEnv = {},
  ): Promise<{ exit: number | null; output: string }> {
    const child = new RunningProcess(['commands/check.js', ...args], {
      env: environment(over),
      cwd: tmpdir(),
    });
    const exit = await child.exit;
    return { exit, output: child.output };
  }

  it('prints a line for each check of a correct installation, and exits with 0', async () => {
    const { exit, output } = await run([]);
    expect(output).toMatch(/^ok +settings /m);
    expect(output).toMatch(/^ok +database migrations +all have run$/m);
    expect(output).toMatch(/^ok +storage folder /m);
    expect(output).toMatch(/^ok +token HS256 /m);
    expect(output).toMatch(/^ok +APP_URL /m);
    expect(output).toMatch(/^\d+ ok, \d+ to look at, 0 wrong\.$/m);
    expect(exit).toBe(0);
  });

  it('prints JSON with --json, and exits with 1 when a check is wrong', async () => {
    const { exit, output } = await run(['--json'], { DATABASE_URL: await test.postgres.database('empty') });
    const findings = JSON.parse(/^\[.*^\]/ms.exec(output)?.[0] ?? '') as Finding[];
    for (const finding of findings) {
      expect(finding).toEqual({
        name: expect.any(String),
        status: expect.stringMatching(/^(ok|warning|wrong|skipped)$/),
        message: expect.stringMatching(/^[^\n]{5,}$/),
      });
    }
    expect(wrongNames(findings)).toEqual(['main tables', 'database migrations']);
    expect(exit).toBe(1);
  });

  it('lists every wrong setting without its value, and still checks the database', async () => {
    const { exit, output } = await run([], {
      PORT: 'three',
      JWT_SECRET: 'short-secret',
      STORAGE_DRIVER: 's3',
      DO_SPACES_SECRET: 'hunter2',
    });
    for (const name of ['PORT', 'JWT_SECRET', 'DO_SPACES_KEY', 'DO_SPACES_ENDPOINT', 'DO_SPACES_BUCKET'])
      expect(output).toMatch(new RegExp(`^wrong +settings +${name} `, 'm'));
    expect(output).toMatch(/^ok +database migrations /m);
    expect(output).toMatch(/^skipped +everything else /m);
    expect(output).not.toMatch(/hunter2|short-secret|three|\n +at /);
    expect(exit).toBe(1);
  });

  it('prints its usage for an unknown option', async () => {
    expect(await run(['--jsn'])).toEqual({ exit: 1, output: expect.stringMatching(/^Usage: /) });
  });
});

describe('the database check', () => {
  /** Runs a statement as the owner of the database. */
  async function query(sql: string, url = test.settings.database.url): Promise<void> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(sql).finally(() => client.end());
  }

  const urlOf = (role: string): string => {
    const url = new URL(test.settings.database.url);
    url.username = role;
    url.password = 'password';
    return url.href;
  };

  it('reports a database that does not answer or refuses the password, and skips the rest', async () => {
    const down = await check({ DATABASE_URL: 'postgres://u:hunter2@127.0.0.1:1/x' });
    expect(said(down, 'database')).toMatch(/^wrong: The database does not answer: check the host and port/);
    expect(said(down, 'rest of the database')).toMatch(/^skipped: /);
    expect(wrongNames(down)).toEqual(['database']);
    const refused = await check({
      DATABASE_URL: test.settings.database.url.replace(/:[^:@]+@/, ':hunter2@'),
    });
    expect(said(refused, 'database')).toMatch(/^wrong: .*password in DATABASE_URL/);
    expect(JSON.stringify([down, refused])).not.toContain('hunter2');
  });

  it('reports whether DATABASE_URL and DATABASE_DIRECT_URL lead to the database itself', async () => {
    expect(said(await check(), 'database address')).toMatch(/^ok: leads to the database itself/);
    expect(said(await check({ DATABASE_POOLER: 'transaction' }), 'database address')).toMatch(
      /^warning: direct, though DATABASE_POOLER=transaction/,
    );
    expect(
      said(await check({ DATABASE_DIRECT_URL: test.settings.database.url }), 'database direct address'),
    ).toMatch(/^ok: /);
    expect(
      said(await check({ DATABASE_DIRECT_URL: 'postgres://127.0.0.1:1/x' }), 'database direct address'),
    ).toMatch(/^wrong: .*DATABASE_DIRECT_URL/);
  });

  it('warns of an unencrypted connection to another machine', async () => {
    expect(said(await check(), 'database TLS')).toMatch(/^ok: /);
    // This address leads to the same server, but counts as another machine.
    const DATABASE_URL = test.settings.database.url.replace('127.0.0.1', '0.0.0.0');
    expect(said(await check({ DATABASE_URL }), 'database TLS')).toMatch(/^warning: .*sslmode=require/);
  });

  it('reports a read-only database', async () => {
    const DATABASE_URL = await test.postgres.database('read_only');
    await query('ALTER DATABASE read_only SET default_transaction_read_only = on', DATABASE_URL);
    expect(said(await check({ DATABASE_URL }), 'database')).toMatch(/^wrong: .*read-only/);
  });

  it('reports tables of the main application that have another form', async () => {
    const DATABASE_URL = await test.postgres.database('other_form');
    await query('CREATE TABLE users (id uuid PRIMARY KEY)', DATABASE_URL);
    await query('CREATE TABLE appointments (id bigint PRIMARY KEY, patient_id bigint)', DATABASE_URL);
    expect(said(await check({ DATABASE_URL }), 'main tables')).toMatch(
      /^wrong: users\.id is uuid, not a whole number; appointments\.doctor_id is missing/,
    );
  });

  it('looks at text_sessions with TEXT_SESSIONS=true only', async () => {
    const off = await check();
    expect(said(off, 'text sessions')).toMatch(/^skipped: /);
    expect(said(off, 'main tables')).toBe('ok: users and appointments have the columns that are read');
    const on = { TEXT_SESSIONS: 'true' };
    expect(said(await check(on), 'text sessions')).toMatch(/^ok: /);
    await query('ALTER TABLE text_sessions RENAME doctor_id TO physician_id');
    expect(said(await check(on), 'main tables')).toMatch(/^wrong: text_sessions\.doctor_id is missing/);
    await query('ALTER TABLE text_sessions RENAME physician_id TO doctor_id');
    await query('ALTER TABLE chat_images DROP CONSTRAINT chat_images_text_session_id_foreign');
    const missing = said(await check(on), 'text sessions');
    const [sql = ''] = /ALTER TABLE .* CASCADE/.exec(missing) ?? [];
    expect(missing).toMatch(/^wrong: pictures of deleted text sessions would stay: /);
    // The SQL of the finding is what helps.
    await query(sql);
    expect(said(await check(on), 'text sessions')).toMatch(/^ok: /);
  });

  it('reports pending migrations and migrations of a newer version', async () => {
    await query(`INSERT INTO chat_image_migrations (timestamp, name) VALUES (9, 'FromTheFuture9')`);
    expect(said(await check(), 'database migrations')).toMatch(/^warning: 1 of a newer version/);
    await query(`DELETE FROM chat_image_migrations WHERE name = 'FromTheFuture9'`);
    await query(`UPDATE chat_image_migrations SET name = 'x' WHERE name LIKE 'UploadSafety%'`);
    expect(said(await check(), 'database migrations')).toMatch(/^wrong: 1 pending: run npm run migrate/);
    await query(`UPDATE chat_image_migrations SET name = 'UploadSafety1762400000000' WHERE name = 'x'`);
    expect(said(await check(), 'database migrations')).toBe('ok: all have run');
  });

  it('names each right that the role lacks, and is ok when all are granted', async () => {
    await query(`CREATE ROLE server LOGIN PASSWORD 'password'`);
    const DATABASE_URL = urlOf('server');
    const none = said(await check({ DATABASE_URL }), 'database rights');
    expect(none).toMatch(
      /^wrong: .* lacks SELECT \(id\) on users; SELECT \(id, patient_id, doctor_id\) on appointments; /,
    );
    expect(none).toContain('SELECT, INSERT, UPDATE, DELETE on chat_images;');
    expect(none).toContain('USAGE on chat_images_id_seq');
    for (const { table, column } of readColumns(false))
      await query(`GRANT SELECT (${column}) ON ${table} TO server`);
    for (const [table, rights] of Object.entries(NEEDED_RIGHTS.tables))
      await query(`GRANT ${rights.join(', ')} ON ${table} TO server`);
    for (const [sequence, rights] of Object.entries(NEEDED_RIGHTS.sequences))
      await query(`GRANT ${rights.join(', ')} ON SEQUENCE ${sequence} TO server`);
    const all = await check({ DATABASE_URL });
    expect(said(all, 'database rights')).toMatch(/^ok: /);
    expect(said(all, 'database migrations')).toMatch(/^warning: .*may not read chat_image_migrations/);
    expect(wrongNames(all)).toEqual([]);
    expect(said(await check({ DATABASE_URL, TEXT_SESSIONS: 'true' }), 'database rights')).toMatch(
      /lacks SELECT \(id, patient_id, doctor_id\) on text_sessions: /,
    );
    await query('GRANT SELECT (id, patient_id, doctor_id) ON text_sessions TO server');
    expect(said(await check({ DATABASE_URL, TEXT_SESSIONS: 'true' }), 'database rights')).toMatch(/^ok: /);
    await query('REVOKE DELETE ON chat_images FROM server');
    expect(said(await check({ DATABASE_URL }), 'database rights')).toMatch(/lacks DELETE on chat_images: /);
    expect(said(await check(), 'database rights')).toMatch(/^warning: .*superuser/);
  });

  it('reports a user_sessions table that lacks columns, an index or rights', async () => {
    const revoked = async (over = {}): Promise<string> => said(await check(over), 'revoked tokens');
    expect(await revoked()).toMatch(/^skipped: there is no table user_sessions/);
    await query('CREATE TABLE user_sessions (user_id bigint, jti varchar(64), expires_at timestamp(0))');
    expect(await revoked()).toMatch(/^wrong: user_sessions lacks/);
    await query('ALTER TABLE user_sessions ADD COLUMN revoked_at timestamp(0)');
    await query('CREATE INDEX by_user ON user_sessions (user_id, jti)');
    expect(await revoked()).toMatch(/^warning: .*no index that begins with jti/);
    await query('CREATE INDEX by_jti ON user_sessions (jti)');
    expect(await revoked()).toMatch(/^ok: /);
    await query(`CREATE ROLE blind LOGIN PASSWORD 'password'`);
    expect(await revoked({ DATABASE_URL: urlOf('blind') })).toMatch(/^wrong: .*grant it SELECT/);
    await query('DROP TABLE user_sessions');
  });
});

describe('the local storage check', () => {
  it('leaves no file behind, and creates no folder', async () => {
    expect(said(await check(), 'storage folder')).toMatch(/^ok: /);
    expect(await readdir(folder)).toEqual([]);
    const LOCAL_STORAGE_DIR = join(folder, 'a/b');
    expect(said(await check({ LOCAL_STORAGE_DIR }), 'storage folder')).toMatch(/^ok: /);
    await expect(stat(join(folder, 'a'))).rejects.toThrow('ENOENT');
  });

  it('reports a folder that it can not use', async () => {
    const file = join(folder, 'file');
    await writeFile(file, '');
    expect(said(await check({ LOCAL_STORAGE_DIR: join(file, 'x') }), 'storage folder')).toMatch(
      /^wrong: LOCAL_STORAGE_DIR can not be used \(ENOTDIR\)/,
    );
    await rm(file);
  });
});

describe('the APP_URL check', () => {
  it.each([
    ['nothing answers', 'http://127.0.0.1:1', /^warning: .*does not answer/],
    ['another server answers', undefined, /^warning: .*answered by something else \(404\)/],
  ])('warns when %s, and reports nothing as wrong', async (_what, APP_URL, message) => {
    const findings = await check({ APP_URL: APP_URL ?? `${test.url}/elsewhere` });
    expect(said(findings, 'APP_URL')).toMatch(message);
    expect(wrongNames(findings)).toEqual([]);
  });
});

describe('the bucket check, on an S3 server with scripted responses', () => {
  let answers: S3Answers;

  beforeAll(async () => {
    answers = await S3Answers.start();
  });

  afterEach(() => answers.answerWith());

  afterAll(() => answers.stop());

  const asked = (): readonly string[] => answers.requests.map(({ method = '' }) => method);

  it('asks for DO_SPACES_OBJECT_ACL=none when ACLs are refused, and deletes its object', async () => {
    answers.answerWith(
      refusal(400, 'AccessControlListNotSupported', ({ headers }) => 'x-amz-acl' in headers),
    );
    const findings = await check(answers.environment);
    expect(said(findings, 'bucket write')).toMatch(/^wrong: .*DO_SPACES_OBJECT_ACL=none/);
    expect(asked()).toContain('DELETE');
    const without = await check({ ...answers.environment, DO_SPACES_OBJECT_ACL: 'none' });
    expect(said(without, 'bucket write')).toMatch(/^ok: /);
  });

  it.each([
    [400, 'AuthorizationHeaderMalformed', /^wrong: DO_SPACES_REGION /],
    [403, 'InvalidAccessKeyId', /^wrong: DO_SPACES_KEY /],
    [403, 'SignatureDoesNotMatch', /^wrong: DO_SPACES_SECRET /],
    [503, 'SlowDown', /^wrong: The storage has trouble/],
  ])('explains a %s %s response, and writes nothing', async (status, code, message) => {
    answers.answerWith(refusal(status, code));
    const findings = await check(answers.environment);
    expect(said(findings, 'bucket')).toMatch(message);
    expect(said(findings, 'rest of the bucket')).toMatch(/^skipped: /);
    expect(asked()).not.toContain('PUT');
    expect(JSON.stringify(findings)).not.toMatch(/the-access-key|the-secret/);
  });

  it('warns when the key may not list the bucket, and checks the rest', async () => {
    answers.answerWith(refusal(403, 'AccessDenied', ({ url = '' }) => url.includes('list-type')));
    const findings = await check(answers.environment);
    expect(said(findings, 'bucket')).toMatch(/^warning: /);
    expect(said(findings, 'bucket write')).toMatch(/^ok: /);
  });

  it.each([
    [-60_000, 'wrong', 'ahead of'],
    [60_000, 'wrong', 'behind'],
    [-10_000, 'warning', 'ahead of'],
  ])('reports a storage clock that is off by %s ms as %s', async (off, status, words) => {
    answers.answerWith((request, response) => {
      response.setHeader('date', new Date(Date.now() + off).toUTCString());
      takes(request, response);
    });
    expect(said(await check(answers.environment), 'bucket clock')).toMatch(
      new RegExp(`^${status}: .*${words} that of the storage`),
    );
  });

  it('deletes its object also when the signed URL fails', async () => {
    answers.answerWith((request, response) => {
      if (request.url?.includes('X-Amz-Signature')) response.writeHead(500).end();
      else takes(request, response);
    });
    const findings = await check(answers.environment);
    expect(said(findings, 'signed URL')).toMatch(/^wrong: /);
    expect(asked()).toContain('DELETE');
  });

  it('deletes its object also when the caller stops early', async () => {
    for await (const { name } of checkInstallation(environment(answers.environment))) {
      if (name === 'bucket write') break;
    }
    expect(asked()).toContain('PUT');
    expect(asked()).toContain('DELETE');
  });

  it('deletes its object also when the command gets SIGINT', async () => {
    answers.answerWith((request, response) => {
      const signed = request.url?.includes('X-Amz-Signature') ?? false;
      setTimeout(() => takes(request, response), signed ? 1000 : 0);
    });
    const child = new RunningProcess(['commands/check.js'], {
      env: environment(answers.environment),
      cwd: tmpdir(),
    });
    await child.printed(/bucket read /);
    child.signal('SIGINT');
    expect(await child.exit).toBe(1);
    expect(child.output).toMatch(/^ok +bucket delete /m);
    expect(asked()).toContain('DELETE');
  });

  it('names the key of an object that remains after its deletion', async () => {
    // HEAD finds the object also after its deletion.
    const findings = await check(answers.environment);
    expect(said(findings, 'bucket delete')).toMatch(/^wrong: .*by hand: chat_images\/check\/[\w-]{36}$/);
  });

  function takes(request: IncomingMessage, response: ServerResponse): void {
    if (request.method === 'GET')
      response.end('<ListBucketResult><Name>pictures</Name><KeyCount>0</KeyCount></ListBucketResult>');
    else response.writeHead(request.method === 'DELETE' ? 204 : request.method === 'HEAD' ? 404 : 200).end();
  }
});

const s3 = s3Environment();

(s3 ? describe : describe.skip)('the bucket check, on a real bucket (skipped without S3_ENDPOINT)', () => {
  const client = new S3Client({
    endpoint: s3?.DO_SPACES_ENDPOINT ?? '',
    region: 'us-east-1',
    credentials: { accessKeyId: s3?.DO_SPACES_KEY ?? '', secretAccessKey: s3?.DO_SPACES_SECRET ?? '' },
    forcePathStyle: true,
  });
  /** Each test has its own bucket, as it changes the rights. */
  let Bucket: string;

  beforeEach(async () => {
    Bucket = `check-${randomUUID()}`;
    await client.send(new CreateBucketCommand({ Bucket }));
  });

  afterEach(async () => {
    await client.send(new DeleteBucketPolicyCommand({ Bucket }));
    for (const Key of await keys()) await client.send(new DeleteObjectCommand({ Bucket, Key }));
    await client.send(new DeleteBucketCommand({ Bucket }));
  });

  afterAll(() => client.destroy());

  const keys = async (): Promise<readonly string[]> => {
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }));
    return Contents.map(({ Key = '' }) => Key);
  };

  const checkBucket = (over: NodeJS.ProcessEnv = {}): Promise<readonly Finding[]> =>
    check({
      ...s3,
      DO_SPACES_BUCKET: Bucket,
      DO_SPACES_URL: `${s3?.DO_SPACES_ENDPOINT ?? ''}/${Bucket}`,
      ...over,
    });

  const policy = (effect: string, principal: unknown, action: string): Promise<unknown> =>
    client.send(
      new PutBucketPolicyCommand({
        Bucket,
        Policy: JSON.stringify({
          Version: '2012-10-17',
          Statement: [
            {
              Effect: effect,
              Principal: principal,
              Action: [action],
              Resource: [`arn:aws:s3:::${Bucket}/*`],
            },
          ],
        }),
      }),
    );

  it('reports a correct bucket as ok, and leaves no object behind', async () => {
    const findings = await checkBucket();
    for (const name of [
      'bucket',
      'bucket clock',
      'bucket write',
      'bucket read',
      'signed URL',
      'anonymous read',
      'anonymous list',
      'bucket delete',
    ])
      expect(said(findings, name)).toMatch(/^ok: /);
    expect(wrongNames(findings)).toEqual([]);
    expect(await keys()).toEqual([]);
  });

  it('reports a publicly listable bucket, with an explanation in phases 1 and 2', async () => {
    await client.send(new PutBucketAclCommand({ Bucket, ACL: 'public-read' }));
    for (const phase of ['1', '2', '3', '4']) {
      const findings = await checkBucket({ MIGRATION_PHASE: phase });
      expect(wrongNames(findings)).toEqual(['anonymous list']);
      expect(said(findings, 'anonymous list').includes('the old pictures are public there')).toBe(
        Number(phase) < 3,
      );
    }
  });

  it('reports a publicly readable bucket', async () => {
    await policy('Allow', '*', 's3:GetObject');
    const findings = await checkBucket();
    expect(wrongNames(findings)).toEqual(['anonymous read']);
    expect(await keys()).toEqual([]);
  });

  it('reports each origin that has no CORS rule', async () => {
    const CORS_ORIGINS = `${ORIGIN},https://admin.example.com`;
    expect(wrongNames(await checkBucket({ CORS_ORIGINS }))).toEqual([
      `CORS ${ORIGIN}`,
      'CORS https://admin.example.com',
    ]);
    const rule = { AllowedOrigins: [ORIGIN], AllowedMethods: ['GET'] };
    await client.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [rule] } }));
    const findings = await checkBucket({ CORS_ORIGINS });
    expect(said(findings, `CORS ${ORIGIN}`)).toMatch(/^ok: /);
    expect(wrongNames(findings)).toEqual(['CORS https://admin.example.com']);
    await client.send(new DeleteBucketCorsCommand({ Bucket }));
  });

  it('reports a wrong DO_SPACES_URL, and names the right addresses', async () => {
    const elsewhere = `${s3?.DO_SPACES_ENDPOINT ?? ''}/another-bucket`;
    expect(said(await checkBucket({ DO_SPACES_URL: elsewhere }), 'signed URL')).toMatch(
      new RegExp(`^wrong: .*is right: .* or ${s3?.DO_SPACES_ENDPOINT ?? ''}/${Bucket}$`),
    );
    // This address leads to the application, not to the bucket.
    expect(said(await checkBucket({ DO_SPACES_URL: `${test.url}/api` }), 'signed URL')).toMatch(/^wrong: /);
    const unreachable = await checkBucket({ DO_SPACES_URL: `http://127.0.0.1:1/${Bucket}` });
    expect(said(unreachable, 'signed URL')).toMatch(/^skipped: .*address of this machine/);
    expect(await keys()).toEqual([]);
  });

  it.each([
    ['the key', { DO_SPACES_KEY: 'no-such-key' }, /^wrong: DO_SPACES_KEY /],
    ['the secret', { DO_SPACES_SECRET: JWT_SECRET }, /^wrong: DO_SPACES_SECRET /],
    [
      'the bucket',
      { DO_SPACES_BUCKET: 'no-such-bucket-here', DO_SPACES_URL: 'http://localhost/no-such-bucket-here' },
      /^wrong: DO_SPACES_BUCKET /,
    ],
  ])('names the variable when %s is wrong', async (_what, over, message) => {
    const findings = await checkBucket(over);
    expect(said(findings, 'bucket')).toMatch(message);
    expect(wrongNames(findings)).toEqual(['bucket']);
    expect(JSON.stringify(findings)).not.toContain(JWT_SECRET);
  });

  it('names the key of its object when the bucket refuses deletion', async () => {
    await policy('Deny', '*', 's3:DeleteObject');
    const findings = await checkBucket();
    const [left] = await keys();
    expect(left).toBeDefined();
    expect(said(findings, 'bucket delete')).toMatch(new RegExp(`^wrong: .*by hand: ${left ?? ''};`));
  });
});
