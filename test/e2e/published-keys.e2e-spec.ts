import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import jwt from 'jsonwebtoken';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { TokenVerifier } from '../../src/auth/token-verifier.js';
import { checkTokens } from '../../src/check/token-check.js';
import { loadSettings, type Settings } from '../../src/config/settings.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { KeyServer, type SigningKey, signingKey } from '../support/key-server.js';
import { PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

const CACHE_SECONDS = 300;
const USER = { id: PATIENT };

const first = signingKey('first', 'RS256');
const second = signingKey('second', 'RS256');
const elliptic = signingKey('elliptic', 'ES256');

const published = ({ jwk }: SigningKey, over: object = {}): object => ({
  ...jwk,
  use: 'sig',
  alg: 'RS256',
  ...over,
});

/** A token, by default with the key id that the main application sets. */
function tokenBy(key: SigningKey, header: object = { kid: key.kid }, sub = String(PATIENT)): string {
  const algorithm = key === elliptic ? 'ES256' : 'RS256';
  return jwt.sign({ sub, n: Math.random() }, key.privateKey, {
    expiresIn: 86_400,
    header: { alg: algorithm, ...header },
  });
}

/** An open connection is cut, and a new connection is refused. */
const AWAY = /^the keys of JWT_JWKS_URL can not be fetched \((ECONNREFUSED|UND_ERR_SOCKET)\)/;

const hangs = (): void => undefined;

describe('the keys of JWT_JWKS_URL', () => {
  let server: KeyServer;
  const warn = jest.spyOn(Logger.prototype, 'warn');
  const log = jest.spyOn(Logger.prototype, 'log');

  beforeEach(async () => {
    warn.mockClear().mockReturnValue(undefined);
    log.mockClear().mockReturnValue(undefined);
    server = await KeyServer.start([published(first)]);
  });

  afterEach(async () => {
    setClockForward(0);
    await server.stop();
  });

  afterAll(() => {
    jest.restoreAllMocks();
  });

  const realNow = performance.now.bind(performance);
  let now: { mockRestore: () => void } | undefined;

  /** The seconds count from the real time. */
  function setClockForward(seconds: number): void {
    now?.mockRestore();
    if (seconds > 0)
      now = jest.spyOn(performance, 'now').mockImplementation(() => realNow() + seconds * 1000);
  }

  function settings(over: NodeJS.ProcessEnv = {}): Settings {
    return loadSettings({
      ...TEST_ENVIRONMENT,
      DATABASE_URL: 'postgres://localhost/none',
      LOCAL_STORAGE_DIR: 'none',
      JWT_SECRET: '',
      JWT_ALGORITHM: 'RS256',
      JWT_JWKS_URL: server.url,
      JWT_JWKS_CACHE_SECONDS: String(CACHE_SECONDS),
      ...over,
    });
  }

  async function verifier(over: NodeJS.ProcessEnv = {}): Promise<TokenVerifier> {
    const tokens = new TokenVerifier(settings(over));
    await tokens.onModuleInit();
    return tokens;
  }

  it('are fetched once, and then used without waiting', async () => {
    const tokens = await verifier();
    expect(tokens.verify(tokenBy(first))).toEqual(USER);
    expect(tokens.verify(tokenBy(first))).toEqual(USER);
    // The key id is set by the token's maker, so the signature decides.
    expect(tokens.verify(tokenBy(second, { kid: 'first' }))).toBeUndefined();
    expect(server.requests).toBe(1);
  });

  it('are fetched with the first token when they were not fetched at start', async () => {
    const tokens = new TokenVerifier(settings());
    const answers = [tokens.verify(tokenBy(first)), tokens.verify(tokenBy(first))] as const;
    expect(answers).toEqual([expect.any(Promise), expect.any(Promise)]);
    expect([await answers[0], await answers[1]]).toEqual([USER, USER]);
    expect(server.requests).toBe(1);
  });

  it('accept tokens only when they are signing keys of JWT_ALGORITHM', async () => {
    for (const key of [
      published(first, { use: 'enc' }),
      published(first, { alg: 'RS512' }),
      published(first, { alg: 'PS256' }),
      published(first, { use: undefined, key_ops: ['encrypt'] }),
      { kty: 'oct', k: Buffer.from('x'.repeat(32)).toString('base64url'), kid: 'first' },
      published(first, { n: 'AQAB' }),
      published(elliptic, { alg: 'ES256', kid: 'first' }),
    ]) {
      server.publish([key]);
      expect([key, await (await verifier()).verify(tokenBy(first))]).toEqual([key, undefined]);
    }
    server.publish([published(first, { use: undefined, alg: undefined, key_ops: ['verify'] })]);
    expect((await verifier()).verify(tokenBy(first))).toEqual(USER);
  });

  it('accept no token of another algorithm', async () => {
    server.publish([published(first), published(elliptic, { alg: 'ES256' })]);
    const tokens = await verifier();
    const secret = JSON.stringify(first.jwk);
    for (const token of [
      tokenBy(elliptic),
      jwt.sign({ sub: '1' }, first.privateKey, { algorithm: 'RS512', keyid: 'first', expiresIn: 60 }),
      jwt.sign({ sub: '1' }, secret, { algorithm: 'HS256', keyid: 'first', expiresIn: 60 }),
    ])
      expect(tokens.verify(token)).toBeUndefined();
    expect(server.requests).toBe(1);
    expect((await verifier({ JWT_ALGORITHM: 'ES256' })).verify(tokenBy(elliptic))).toEqual(USER);
  });

  it('are all tried for a token without a key id', async () => {
    server.publish([published(first), published(second), published(elliptic, { alg: 'ES256' })]);
    const tokens = await verifier();
    expect([first, second].map((key) => tokens.verify(tokenBy(key, {})))).toEqual([USER, USER]);
    expect(tokens.verify(tokenBy(signingKey('other', 'RS256'), {}))).toBeUndefined();
  });

  it('are fetched again for unknown key ids, once in each cool-down', async () => {
    const tokens = await verifier();
    const unknown = Array.from({ length: 20 }, (_, index) => tokenBy(second, { kid: `unknown ${index}` }));
    const verifyAll = (): Promise<unknown[]> => Promise.all(unknown.map((token) => verifyOf(tokens, token)));
    const nobody = unknown.map(() => undefined);
    setClockForward(29);
    expect(await verifyAll()).toEqual(nobody);
    expect(server.requests).toBe(1);
    setClockForward(31);
    expect(await verifyAll()).toEqual(nobody);
    expect(await verifyAll()).toEqual(nobody);
    expect(server.requests).toBe(2);
    server.publish([published(first), published(second)]);
    setClockForward(62);
    expect(await tokens.verify(tokenBy(second))).toEqual(USER);
    expect(tokens.verify(tokenBy(first))).toEqual(USER);
    expect(server.requests).toBe(3);
  });

  it('expire within the cache time after their removal, also for cached tokens', async () => {
    const tokens = await verifier();
    const token = tokenBy(first);
    expect(tokens.verify(token)).toEqual(USER);
    server.publish([published(second)]);
    expect(tokens.verify(token)).toEqual(USER);
    setClockForward(CACHE_SECONDS + 1);
    expect(await tokens.verify(token)).toBeUndefined();
    expect(await tokens.verify(tokenBy(second))).toEqual(USER);
    server.publish([]);
    setClockForward(2 * CACHE_SECONDS + 2);
    expect(await tokens.verify(tokenBy(second))).toBeUndefined();
    expect(warn.mock.calls).toEqual([['JWT_JWKS_URL publishes no key that fits JWT_ALGORITHM']]);
  });

  it('are refreshed in the background before the cache time ends', async () => {
    const tokens = await verifier();
    const token = tokenBy(first);
    expect(tokens.verify(token)).toEqual(USER);
    let answering: ServerResponse | undefined;
    server.answerWith((_, response) => void (answering = response));
    setClockForward(CACHE_SECONDS / 2 + 1);
    expect(tokens.verify(token)).toEqual(USER);
    expect(tokens.verify(tokenBy(first))).toEqual(USER);
    await until(() => answering !== undefined);
    answering?.end(JSON.stringify({ keys: [published(second)] }));
    await until(() => tokens.verify(token) === undefined);
    expect(server.requests).toBe(2);
  });

  it('are kept while the key server is down, with one retry in each cool-down', async () => {
    const tokens = await verifier();
    const token = tokenBy(first);
    await server.goAway();
    setClockForward(CACHE_SECONDS + 1);
    expect(await tokens.verify(token)).toEqual(USER);
    setClockForward(10 * CACHE_SECONDS);
    expect(tokens.verify(token)).toEqual(USER);
    expect(tokens.verify(tokenBy(first))).toEqual(USER);
    expect(warn.mock.calls).toEqual([[expect.stringMatching(AWAY)]]);
    expect(String(warn.mock.calls)).toContain('those that are known are kept');
    // The key of this token may be new, which nobody can check now.
    await expect(verifyOf(tokens, tokenBy(second))).rejects.toMatchObject({ code: 'OVERLOADED' });
    server.publish([published(second)]);
    await server.comeBack();
    const before = server.requests;
    for (let again = 0; again < 20; again += 1)
      await expect(verifyOf(tokens, tokenBy(second))).rejects.toMatchObject({ code: 'OVERLOADED' });
    expect(server.requests).toBe(before);
    setClockForward(10 * CACHE_SECONDS + 31);
    expect(await tokens.verify(tokenBy(second))).toEqual(USER);
    expect(await tokens.verify(token)).toBeUndefined();
    expect(log.mock.calls).toEqual([['the keys of JWT_JWKS_URL can be fetched again']]);
  });

  it.each<[what: string, answer: Parameters<KeyServer['answerWith']>[0], reason: RegExp]>([
    ['a body that is not JSON', (_, response) => response.end('<html>'), /Failed to parse/],
    [
      'JSON that is not a key set',
      (_, response) => response.end('{"keys":{}}'),
      /the answer is no set of keys/,
    ],
    ['status 500', (_, response) => response.writeHead(500).end('{"keys":[]}'), /Expected 200 OK/],
    ['a redirect', (_, response) => response.writeHead(302, { location: '/x' }).end(), /Expected 200 OK/],
    ['nothing until the timeout', hangs, /no answer within 5 s/],
    [
      'half a body until the timeout',
      (_, response) => void response.write('{"keys":['),
      /no answer within 5 s/,
    ],
    [
      'half a body and a closed connection',
      (_, response) => response.write('{"keys":[', () => response.destroy()),
      /UND_ERR_SOCKET/,
    ],
  ])('are kept when the key server answers with %s', async (_, answer, reason) => {
    const tokens = await verifier();
    server.answerWith(answer);
    setClockForward(CACHE_SECONDS + 1);
    expect(await tokens.verify(tokenBy(first))).toEqual(USER);
    expect(server.requests).toBe(2);
    expect(warn.mock.calls).toEqual([[expect.stringMatching(reason)]]);
    expect(String(warn.mock.calls)).not.toContain(server.url);
  });

  it('are kept when the response is longer than 64 KiB, which is cut off', async () => {
    const tokens = await verifier();
    let cutOff: Promise<unknown> | undefined;
    server.answerWith((_, response) => {
      cutOff = once(response, 'close');
      Readable.from(endless()).pipe(response);
    });
    setClockForward(CACHE_SECONDS + 1);
    expect(await tokens.verify(tokenBy(first))).toEqual(USER);
    expect(warn.mock.calls).toEqual([[expect.stringMatching(/the answer is longer than 64 KiB/)]]);
    await cutOff;
  });

  it('are checked by npm run check', async () => {
    expect(await checkTokens(settings())).toMatchObject({ name: 'token RS256', status: 'ok' });
    for (const [keys, message] of [
      [[], /publishes no key that may sign with RS256$/],
      [[published(elliptic, { alg: 'ES256' })], /publishes no key that may sign with RS256$/],
      [[published(signingKey('short', 'RS256', 1024))], /RS256: one must have at least 2048 bits/],
    ] as const) {
      server.publish(keys);
      expect(await checkTokens(settings())).toEqual({
        name: 'token RS256',
        status: 'wrong',
        message: expect.stringMatching(message),
      });
    }
    server.answerWith((_, response) => response.end('<html>'));
    expect(await checkTokens(settings())).toMatchObject({
      status: 'wrong',
      message: expect.stringMatching(/^the keys of JWT_JWKS_URL can not be fetched \(Failed to parse/),
    });
    await server.goAway();
    expect(await checkTokens(settings())).toMatchObject({
      status: 'wrong',
      message: expect.stringMatching(AWAY),
    });
  });
});

describe('the service with JWT_JWKS_URL', () => {
  let server: KeyServer;
  let test: TestApp;

  beforeAll(async () => {
    server = await KeyServer.start();
    await server.goAway();
    test = await TestApp.start({ JWT_SECRET: '', JWT_ALGORITHM: 'RS256', JWT_JWKS_URL: server.url });
  });

  afterAll(async () => {
    await test.stop();
    await server.stop();
  });

  const ask = (token: string): Promise<Response> =>
    test.fetch('/api/chat-images/1/signed-url', { headers: { authorization: `Bearer ${token}` } });

  it('answers 503 instead of 401 while the key server is down at start', async () => {
    const refused = await ask(tokenBy(first));
    const { error_code: code } = (await refused.json()) as ErrorBodyDto;
    expect([refused.status, code, refused.headers.get('retry-after')]).toEqual([503, 'OVERLOADED', '5']);
    // A token that no key can verify still gets 401.
    expect((await ask('a.b.c')).status).toBe(401);
    expect((await ask(jwt.sign({ sub: '1' }, 'secret'))).status).toBe(401);
    const causes = test.logLines.filter((line) => line.includes('JWT_JWKS_URL'));
    expect(causes).toEqual([
      expect.stringMatching(/can not be fetched \(ECONNREFUSED\): nobody can be let in/),
    ]);
    server.publish([published(first)]);
    await server.comeBack();
    let status = 503;
    for (const deadline = Date.now() + 15_000; status === 503 && Date.now() < deadline;)
      ({ status } = await ask(tokenBy(first)));
    expect(status).toBe(404);
    expect((await ask(tokenBy(second))).status).toBe(401);
  });
});

function* endless(): Generator<string> {
  yield '{"keys":[],"x":"';
  for (;;) yield 'x'.repeat(10_000);
}

/** Turns an error that is thrown at once into a rejection. */
async function verifyOf(tokens: TokenVerifier, token: string): Promise<unknown> {
  return tokens.verify(token);
}

async function until(condition: () => boolean): Promise<void> {
  // Date.now() is the clock that no test sets forward.
  for (const deadline = Date.now() + 10_000; !condition(); await new Promise((go) => setImmediate(go)))
    if (Date.now() > deadline) throw new Error('What was waited for did not come.');
}
