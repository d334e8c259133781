import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { resolve } from 'node:path';
import { picture } from '../support/pictures.js';
import { refusal, S3Answers } from '../support/s3-answers.js';
import {
  closeStorages,
  endServices,
  expectRefusedStart,
  failureOf,
  ping,
  put,
  startService,
  storageOf,
} from '../support/storage-mistakes.js';
import { TestApp } from '../support/test-app.js';

let answers: S3Answers;
/** A server that answers in plain HTTP at an https address. */
let plain: Server;
let plainUrl: string;

beforeAll(async () => {
  answers = await S3Answers.start();
  plain = createServer((socket) => socket.once('data', () => socket.end('HTTP/1.1 400 Bad\r\n\r\n')));
  await new Promise<void>((listening) => plain.listen(0, '127.0.0.1', listening));
  plainUrl = `https://127.0.0.1:${(plain.address() as AddressInfo).port}`;
});

afterAll(() => {
  answers.stop();
  plain.close();
});

afterEach(() => {
  answers.answerWith();
  closeStorages();
});

describe('the S3 storage', () => {
  it.each([
    [403, 'InvalidAccessKeyId', 'wrong-key'],
    [403, 'SignatureDoesNotMatch', 'wrong-secret'],
    [400, 'AuthorizationHeaderMalformed', 'wrong-region'],
    [301, 'PermanentRedirect', 'wrong-region'],
    [404, 'NoSuchBucket', 'no-such-bucket'],
    [403, 'AccessDenied', 'access-denied'],
    [403, 'RequestTimeTooSkewed', 'clock-skewed'],
    [503, 'SlowDown', 'failing'],
  ])('reports %s %s of a ping and a put as %s', async (status, code, failure) => {
    answers.answerWith(refusal(status, code));
    const storage = storageOf(answers.environment);
    expect([await failureOf(ping(storage)), await failureOf(put(storage))]).toEqual([failure, failure]);
  });

  it.each([
    ['an HTML page of another server', 200, '<html><body>Hello</body></html>'],
    ['a body that is not XML', 200, 'Hello'],
    ['404 of another server', 404, '<html><p>Not here'],
  ])('reports %s as unexpected', async (_what, status, body) => {
    answers.answerWith((_request, response) => response.writeHead(status).end(body));
    expect(await failureOf(ping(storageOf(answers.environment)))).toBe('unexpected');
  });

  it('reports a closed port as unreachable and plain HTTP as no-tls', async () => {
    const closed = storageOf({ ...answers.environment, DO_SPACES_ENDPOINT: 'http://127.0.0.1:1' });
    expect([await failureOf(ping(closed)), await failureOf(put(closed))]).toEqual([
      'unreachable',
      'unreachable',
    ]);
    // The SDK does not recognise connection errors under Jest, so a put shows this failure.
    const noTls = storageOf({ ...answers.environment, DO_SPACES_ENDPOINT: plainUrl });
    expect(await failureOf(put(noTls))).toBe('no-tls');
  });

  it('limits the bytes and the time for reading a refusal', async () => {
    const storage = storageOf(answers.environment);
    answers.answerWith((_request, response) => {
      response.writeHead(403);
      response.end(`${' '.repeat(64 * 1024)}<Code>InvalidAccessKeyId</Code>`);
    });
    expect(await failureOf(put(storage))).toBe('access-denied');
    answers.answerWith((_request, response) => {
      response.writeHead(400);
      response.write('<Error><Code>AccessControlListNotSupported</Code>');
      const trickle = setInterval(() => response.write(' '), 100);
      response.on('close', () => clearInterval(trickle));
    });
    const begun = Date.now();
    expect(await failureOf(put(storage))).toBe('acl-refused');
    expect(Date.now() - begun).toBeLessThan(3000);
  });
});

describe('DO_SPACES_OBJECT_ACL', () => {
  const refusesAcls = refusal(400, 'AccessControlListNotSupported', ({ headers }) => 'x-amz-acl' in headers);

  it('makes objects private when it is not set', async () => {
    await put(storageOf(answers.environment));
    expect(answers.requests.map(({ headers }) => headers['x-amz-acl'])).toEqual(['private']);
  });

  it('with the value none omits x-amz-acl, so that a bucket without ACLs works', async () => {
    answers.answerWith(refusesAcls);
    await put(storageOf({ ...answers.environment, DO_SPACES_OBJECT_ACL: 'none' }));
    expect(answers.requests).toHaveLength(1);
  });

  it('is named in the log when a bucket refuses ACLs, and uploads get 503', async () => {
    answers.answerWith(refusesAcls);
    const test = await TestApp.start(answers.environment);
    try {
      const response = await test.upload(await picture('png'));
      const body = await response.text();
      expect([response.status, body]).toEqual([503, expect.stringContaining('STORAGE_UNAVAILABLE')]);
      expect(body).not.toMatch(/ACL/i);
      const log = test.logLines.join('\n');
      expect(log).toMatch(/"storage":"acl-refused","advice":"[^"]*DO_SPACES_OBJECT_ACL=none/);
      expect(log).not.toMatch(/the-access-key|the-secret|Signature=|x-amz-signature/i);
    } finally {
      await test.stop();
    }
  });
});

describe('npm start', () => {
  /** The tests use only its database. */
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start();
  });

  afterAll(() => test.stop());

  afterEach(endServices);

  const start = (environment: NodeJS.ProcessEnv): ReturnType<typeof startService> =>
    startService(test, environment);
  const expectRefused = (environment: NodeJS.ProcessEnv, line: RegExp): Promise<void> =>
    expectRefusedStart(test, environment, line);

  it.each([
    ['does not know the key', 403, 'InvalidAccessKeyId', /^DO_SPACES_KEY /m],
    ['refuses the secret', 403, 'SignatureDoesNotMatch', /^DO_SPACES_SECRET /m],
    ['has another region', 400, 'AuthorizationHeaderMalformed', /^DO_SPACES_REGION /m],
    ['has no such bucket', 404, 'NoSuchBucket', /^DO_SPACES_BUCKET /m],
  ])('exits with a line that names the variable when the storage %s', async (_what, status, code, line) => {
    answers.answerWith(refusal(status, code));
    await expectRefused(answers.environment, line);
  });

  it.each([
    ['denies listing', refusal(403, 'AccessDenied'), 'access-denied'],
    ['answers 503 SlowDown', refusal(503, 'SlowDown'), 'failing'],
    ['does not answer', () => undefined, 'unreachable'],
  ])('warns and listens when the storage %s', async (_what, answer, failure) => {
    answers.answerWith(answer);
    const begun = Date.now();
    const child = await start(answers.environment);
    await child.printed(/"listening"/);
    expect(child.output).toMatch(new RegExp(`"level":"warn".*"storage":"${failure}","advice":"`));
    expect((await fetch(`http://127.0.0.1:${child.port}/api/health`)).status).toBe(200);
    expect((await fetch(`http://127.0.0.1:${child.port}/api/health/ready`)).status).toBe(503);
    expect(Date.now() - begun).toBeLessThan(15_000);
  });

  it('warns and listens when the storage does not speak TLS', async () => {
    const child = await start({ ...answers.environment, DO_SPACES_ENDPOINT: plainUrl });
    await child.printed(/"level":"warn".*"storage":"no-tls"/);
    await child.printed(/"listening"/);
  });

  it('exits with a line that names LOCAL_STORAGE_DIR when it is not a folder', async () => {
    await expectRefused({ LOCAL_STORAGE_DIR: resolve('package.json/storage') }, /^LOCAL_STORAGE_DIR /m);
  });
});
