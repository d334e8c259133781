import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createHmac, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { JWT_SECRET, PATIENT, TestApp } from '../support/test-app.js';

type Claims = Record<string, unknown>;

const now = (): number => Math.floor(Date.now() / 1000);
const claims = (over: Claims = {}): Claims => ({
  iss: 'https://api.example.com/api/login',
  iat: now(),
  nbf: now(),
  exp: now() + 3600,
  sub: String(PATIENT),
  jti: 'abc',
  prv: 'private claim of the main application',
  ...over,
});
const without = (name: string): Claims =>
  Object.fromEntries(Object.entries(claims()).filter(([key]) => key !== name));

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
const head = (header: unknown, payload: unknown): string => `${encode(header)}.${encode(payload)}`;

/** Tokens are made by hand, as a library refuses to make most of these. */
function hs256(
  payload: Claims,
  key: string | Buffer = JWT_SECRET,
  header: Claims = { alg: 'HS256', typ: 'JWT' },
): string {
  const signed = head(header, payload);
  return `${signed}.${createHmac('sha256', key).update(signed).digest('base64url')}`;
}

function signedWith(algorithm: 'RS256' | 'ES256', key: KeyObject, payload: Claims = claims()): string {
  const signed = head({ alg: algorithm, typ: 'JWT' }, payload);
  const signature = sign('sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' });
  return `${signed}.${signature.toString('base64url')}`;
}

/** An accepted token gets 404, as there is no image 1. */
const IN = 404;
const OUT = 401;

const knock = async (test: TestApp, authorization: string | undefined): Promise<number> => {
  const response = await test.fetch('/api/chat-images/1/signed-url', {
    headers: authorization === undefined ? {} : { authorization },
  });
  const body = (await response.json()) as { error_code: string };
  if (response.status === OUT) {
    expect(body.error_code).toBe('UNAUTHENTICATED');
    expect(response.headers.get('www-authenticate')).toBe('Bearer');
  }
  return response.status;
};

describe('authentication with JWT_ALGORITHM=HS256', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start();
  });

  afterAll(() => test.stop());

  it('accepts tokens of the existing backend, with any issuer or none', async () => {
    expect(await knock(test, `Bearer ${hs256(claims())}`)).toBe(IN);
    expect(
      await knock(test, `bearer ${hs256(claims({ iss: 'https://api.example.com/api/doctor/login' }))}`),
    ).toBe(IN);
    expect(await knock(test, `Bearer ${hs256(without('iss'))}`)).toBe(IN);
    expect(await knock(test, `Bearer ${hs256(without('nbf'))}`)).toBe(IN);
    expect(await knock(test, `Bearer ${hs256(without('iat'))}`)).toBe(IN);
    expect(await knock(test, `Bearer ${hs256(claims({ sub: 1 }))}`)).toBe(IN);
  });

  it('accepts nbf and iat less than a minute ahead, but no expired token', async () => {
    const ahead = now() + 50;
    expect(await knock(test, `Bearer ${hs256(claims({ nbf: ahead, iat: ahead }))}`)).toBe(IN);
    expect(await knock(test, `Bearer ${hs256(claims({ exp: now() - 1 }))}`)).toBe(OUT);
  });

  const wrong: [what: string, authorization: () => string | undefined][] = [
    ['a request without an Authorization header', () => undefined],
    ['an empty Authorization header', () => ''],
    ['the word Bearer alone', () => 'Bearer'],
    ['the word Bearer and a space', () => 'Bearer '],
    ['text after the token', () => `Bearer ${hs256(claims())} x`],
    ['two tokens', () => `Bearer ${hs256(claims())}, Bearer ${hs256(claims())}`],
    ['the scheme Basic', () => `Basic ${hs256(claims())}`],
    ['a token without a scheme', () => hs256(claims())],
    ['a token that is not a JWT', () => 'Bearer abc'],
    ['a token of three empty parts', () => 'Bearer ..'],
    ['a token that is not base64', () => 'Bearer $$$.$$$.$$$'],
    ['a payload that is not an object', () => `Bearer ${hs256([] as unknown as Claims)}`],
    [
      'a very long token with a wrong signature',
      () => `Bearer ${hs256(claims({ pad: 'x'.repeat(7000) }), 'wrong key'.repeat(5))}`,
    ],
    ['alg none', () => `Bearer ${head({ alg: 'none', typ: 'JWT' }, claims())}.`],
    ['alg NONE with the right signature', () => `Bearer ${hs256(claims(), JWT_SECRET, { alg: 'NONE' })}`],
    ['alg HS512 in the header', () => `Bearer ${hs256(claims(), JWT_SECRET, { alg: 'HS512' })}`],
    ['a header without alg', () => `Bearer ${hs256(claims(), JWT_SECRET, { typ: 'JWT' })}`],
    [
      'a signature by a wrong key',
      () => `Bearer ${hs256(claims(), 'another secret that is long enough, 01234567')}`,
    ],
    ['a signature by an empty key', () => `Bearer ${hs256(claims(), '')}`],
    [
      'a changed payload',
      () => `Bearer ${hs256(claims()).replace(/\.[^.]+\./, `.${encode(claims({ sub: '2' }))}.`)}`,
    ],
    ['an expired token', () => `Bearer ${hs256(claims({ exp: now() - 1 }))}`],
    ['a token with nbf in the future', () => `Bearer ${hs256(claims({ nbf: now() + 90 }))}`],
    ['a token with iat in the future', () => `Bearer ${hs256(claims({ iat: now() + 90 }))}`],
    ['nbf as text', () => `Bearer ${hs256(claims({ nbf: String(now()) }))}`],
    ['iat as text', () => `Bearer ${hs256(claims({ iat: String(now()) }))}`],
    ['a token without exp', () => `Bearer ${hs256(without('exp'))}`],
    ['exp as text', () => `Bearer ${hs256(claims({ exp: String(now() + 3600) }))}`],
    ['exp null', () => `Bearer ${hs256(claims({ exp: null }))}`],
    ['a token without sub', () => `Bearer ${hs256(without('sub'))}`],
    ...[
      4711,
      0,
      -1,
      1.5,
      1e300,
      Number.MAX_SAFE_INTEGER + 1,
      true,
      null,
      '',
      'abc',
      '2.5',
      '0',
      '-1',
      '+1',
      '01',
      ' 1',
      '1 ',
      '1e0',
      '0x1',
      '１',
      '9007199254740993',
      '99999999999999999999',
      {},
      ['1'],
    ].map((sub): [string, () => string] => [
      `sub ${JSON.stringify(sub)}`,
      () => `Bearer ${hs256(claims({ sub }))}`,
    ]),
    ['a user who does not exist', () => `Bearer ${hs256(claims({ sub: '4711' }))}`],
    [
      'the largest user id that JavaScript can hold',
      () => `Bearer ${hs256(claims({ sub: '9007199254740991' }))}`,
    ],
  ];

  it.each(wrong)('answers 401 to %s', async (_, authorization) => {
    expect(await knock(test, authorization())).toBe(OUT);
  });

  it('answers 401 to a user who was deleted', async () => {
    await test.database.query('INSERT INTO users (id) VALUES (50)');
    const token = `Bearer ${hs256(claims({ sub: '50' }))}`;
    expect(await knock(test, token)).toBe(IN);
    await test.database.query('DELETE FROM users WHERE id = 50');
    expect(await knock(test, token)).toBe(OUT);
  });

  it('never logs a token or a signed URL', () => {
    const log = test.logLines.join('\n');
    expect(log).toContain('"route":"/api/chat-images/:id/signed-url"');
    expect(log).not.toMatch(/eyJ|Bearer|Signature/);
  });
});

describe.each([
  [
    'RS256',
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ],
  [
    'ES256',
    generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  ],
] as const)('authentication with JWT_ALGORITHM=%s', (algorithm, pair, otherPair) => {
  let test: TestApp;
  const publicKey = pair.publicKey.export({ type: 'spki', format: 'pem' }).toString();

  beforeAll(async () => {
    test = await TestApp.start({
      JWT_ALGORITHM: algorithm,
      JWT_SECRET: '',
      JWT_PUBLIC_KEY: publicKey.replaceAll('\n', '\\n'),
    });
  });

  afterAll(() => test.stop());

  it('accepts a token signed with the private key', async () => {
    expect(await knock(test, `Bearer ${signedWith(algorithm, pair.privateKey)}`)).toBe(IN);
  });

  it('answers 401 to a wrong key, an expired token and a token without exp', async () => {
    expect(await knock(test, `Bearer ${signedWith(algorithm, otherPair.privateKey)}`)).toBe(OUT);
    expect(
      await knock(test, `Bearer ${signedWith(algorithm, pair.privateKey, claims({ exp: now() - 1 }))}`),
    ).toBe(OUT);
    expect(await knock(test, `Bearer ${signedWith(algorithm, pair.privateKey, without('exp'))}`)).toBe(OUT);
  });

  it('answers 401 to an HS256 token signed with the public key', async () => {
    for (const key of [publicKey, publicKey.trim(), pair.publicKey.export({ type: 'spki', format: 'der' })]) {
      expect(await knock(test, `Bearer ${hs256(claims(), key)}`)).toBe(OUT);
    }
  });

  it('answers 401 to alg none and to a token of the shared secret', async () => {
    expect(await knock(test, `Bearer ${head({ alg: 'none' }, claims())}.`)).toBe(OUT);
    expect(await knock(test, `Bearer ${hs256(claims())}`)).toBe(OUT);
  });
});

describe('authentication with JWT_ISSUER', () => {
  it('answers 401 to a token of another issuer or of none', async () => {
    const test = await TestApp.start({ JWT_ISSUER: 'the one' });
    try {
      expect(await knock(test, `Bearer ${hs256(claims({ iss: 'the one' }))}`)).toBe(IN);
      expect(await knock(test, `Bearer ${hs256(claims({ iss: 'another' }))}`)).toBe(OUT);
      expect(await knock(test, `Bearer ${hs256(without('iss'))}`)).toBe(OUT);
    } finally {
      await test.stop();
    }
  });
});

describe('a rotation of JWT_SECRET', () => {
  it('logs nobody out before the last step, which ends all tokens of the old secret', async () => {
    const leaked = `leaked ${JWT_SECRET}`;
    const test = await TestApp.start({ JWT_SECRET: leaked });
    const knockWithBoth = async (): Promise<readonly number[]> => [
      await knock(test, `Bearer ${hs256(claims(), leaked)}`),
      await knock(test, `Bearer ${hs256(claims(), JWT_SECRET)}`),
    ];
    try {
      expect(await knockWithBoth()).toEqual([IN, OUT]);
      // The main application changes its secret while both are accepted.
      await test.restart({ JWT_SECRET, JWT_SECRET_PREVIOUS: leaked });
      expect(await knockWithBoth()).toEqual([IN, IN]);
      await test.restart({ JWT_SECRET_PREVIOUS: '' });
      expect(await knockWithBoth()).toEqual([OUT, IN]);
    } finally {
      await test.stop();
    }
  });
});
