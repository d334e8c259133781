import { afterEach, describe, expect, it, jest } from '@jest/globals';
import jwt from 'jsonwebtoken';
import { createHmac, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { loadSettings } from '../config/settings.js';
import { signToken } from './sign-token.js';
import { TokenVerifier } from './token-verifier.js';

const JWT_SECRET = 'a secret that only this test knows, 0123456789';
const ENVIRONMENT = {
  APP_URL: 'http://localhost:3000',
  DATABASE_URL: 'postgres://localhost/none',
  JWT_SECRET,
  STORAGE_DRIVER: 'local',
  LOCAL_STORAGE_DIR: 'none',
  LOCAL_STORAGE_SECRET: JWT_SECRET,
};
const settings = loadSettings(ENVIRONMENT);
const verifierWith = (over: NodeJS.ProcessEnv): TokenVerifier =>
  new TokenVerifier(loadSettings({ ...ENVIRONMENT, ...over }));
const sign = (claims: object, options: jwt.SignOptions = {}): string => jwt.sign(claims, JWT_SECRET, options);

describe('the token verifier', () => {
  afterEach(() => {
    jest.restoreAllMocks();
  });

  it('checks a signature once, and then returns the cached user', () => {
    const tokens = new TokenVerifier(settings);
    const token = sign({ sub: '7' }, { expiresIn: 60 });
    const verify = jest.spyOn(jwt, 'verify');
    expect(tokens.verify(token)).toEqual({ id: 7 });
    expect(tokens.verify(token)).toEqual({ id: 7 });
    expect(verify).toHaveBeenCalledTimes(1);
  });

  it('drops a cached token at the second in which it expires', () => {
    const tokens = new TokenVerifier(settings);
    const exp = Math.floor(Date.now() / 1000) + 3600;
    const token = sign({ sub: '7', exp });
    expect(tokens.verify(token)).toEqual({ id: 7 });
    const now = jest.spyOn(Date, 'now');
    now.mockReturnValue(exp * 1000 - 1);
    expect(tokens.verify(token)).toEqual({ id: 7 });
    now.mockReturnValue(exp * 1000);
    expect(tokens.verify(token)).toBeUndefined();
    expect(tokens.remembered).toBe(0);
  });

  it('checks a token again after forget()', () => {
    const tokens = new TokenVerifier(settings);
    const token = sign({ sub: '7' }, { expiresIn: 60 });
    expect(tokens.verify(token)).toEqual({ id: 7 });
    const verify = jest.spyOn(jwt, 'verify');
    tokens.forget(token);
    expect(tokens.remembered).toBe(0);
    expect(tokens.verify(token)).toEqual({ id: 7 });
    expect(verify).toHaveBeenCalledTimes(1);
  });

  it('caches only valid tokens, and at most as many as the cache size allows', () => {
    const tokens = new TokenVerifier(settings);
    const token = sign({ sub: '7' }, { expiresIn: 60 });
    for (const wrong of [
      `${token}x`,
      'a.b.c',
      '',
      sign({ sub: '7' }),
      sign({ sub: 'x' }, { expiresIn: 60 }),
    ]) {
      expect(tokens.verify(wrong)).toBeUndefined();
    }
    expect(tokens.remembered).toBe(0);
    for (let user = 1; user <= 50; user += 1) {
      const large = sign({ sub: String(user), filler: 'x'.repeat(400_000) }, { expiresIn: 60 });
      expect(tokens.verify(large)).toEqual({ id: user });
    }
    expect(tokens.remembered).toBe(15);
  });

  it('refuses a token that is valid for more than a year', () => {
    const tokens = new TokenVerifier(settings);
    const now = Math.floor(Date.now() / 1000);
    expect(tokens.verify(sign({ sub: '7', exp: now + 365 * 86_400 }))).toEqual({ id: 7 });
    for (const exp of [now + 367 * 86_400, Number.MAX_SAFE_INTEGER, 1e300, 'Infinity'])
      expect(tokens.verify(signedByHand({ alg: 'HS256' }, `{"sub":"7","exp":${exp}}`))).toBeUndefined();
    expect(tokens.verify(signedByHand({ alg: 'HS256' }, '{"sub":"7","exp":1e999}'))).toBeUndefined();
    expect(tokens.remembered).toBe(1);
  });

  it('refuses a token whose header has crit', () => {
    const tokens = new TokenVerifier(settings);
    const payload = JSON.stringify({ sub: '7', exp: Math.floor(Date.now() / 1000) + 60 });
    expect(tokens.verify(signedByHand({ alg: 'HS256', typ: 'JWT' }, payload))).toEqual({ id: 7 });
    for (const crit of [['exp'], ['b64'], [], null, 'exp'])
      expect(tokens.verify(signedByHand({ alg: 'HS256', crit, b64: true }, payload))).toBeUndefined();
  });

  it('accepts tokens signed with JWT_SECRET_PREVIOUS', () => {
    const before = `before ${JWT_SECRET}`;
    const byBefore = jwt.sign({ sub: '7' }, before, { expiresIn: 60 });
    expect(verifierWith({ JWT_SECRET_PREVIOUS: before }).verify(byBefore)).toEqual({ id: 7 });
    expect(
      verifierWith({ JWT_SECRET_PREVIOUS: before }).verify(sign({ sub: '7' }, { expiresIn: 60 })),
    ).toEqual({
      id: 7,
    });
    const byNeither = jwt.sign({ sub: '7' }, `neither ${JWT_SECRET}`, { expiresIn: 60 });
    expect(verifierWith({ JWT_SECRET_PREVIOUS: before }).verify(byNeither)).toBeUndefined();
    expect(verifierWith({}).verify(byBefore)).toBeUndefined();
  });

  it.each(['rsa', 'ec'] as const)(
    'accepts tokens signed with the key of JWT_PUBLIC_KEY_PREVIOUS: %s',
    (kind) => {
      const [now, before, neither] = [makePair(kind), makePair(kind), makePair(kind)];
      const algorithm = kind === 'rsa' ? 'RS256' : 'ES256';
      const tokens = verifierWith({
        JWT_ALGORITHM: algorithm,
        JWT_PUBLIC_KEY: pem(now.publicKey),
        JWT_PUBLIC_KEY_PREVIOUS: pem(before.publicKey),
      });
      const signedWith = ({ privateKey }: { privateKey: KeyObject }): string =>
        jwt.sign({ sub: '7' }, privateKey, { algorithm, expiresIn: 60 });
      expect([now, before, neither].map((pair) => tokens.verify(signedWith(pair)))).toEqual([
        { id: 7 },
        { id: 7 },
        undefined,
      ]);
    },
  );

  it.each<[pin: NodeJS.ProcessEnv, accepted: readonly object[], refused: readonly object[]]>([
    [
      { JWT_AUDIENCE: 'chat' },
      [{ aud: 'chat' }, { aud: ['web', 'chat'] }],
      [{}, { aud: 'web' }, { aud: ['web'] }],
    ],
    [{ JWT_REQUIRED_CLAIMS: 'prv' }, [{ prv: 'x' }, { prv: 0 }], [{}, { prv: null }]],
    [
      { JWT_REQUIRED_CLAIMS: 'prv=23bd, ver=2' },
      [
        { prv: '23bd', ver: 2 },
        { prv: '23bd', ver: '2' },
      ],
      [{ prv: '23bd' }, { prv: '23bd0', ver: 2 }, { prv: ['23bd'], ver: 2 }],
    ],
    [{ JWT_REQUIRED_CLAIMS: 'valueOf' }, [], [{}]],
  ])('with %j accepts only tokens with these claims', (pin, accepted, refused) => {
    const tokens = verifierWith(pin);
    for (const claims of accepted)
      expect([claims, tokens.verify(sign({ ...claims, sub: '7' }, { expiresIn: 60 }))]).toEqual([
        claims,
        { id: 7 },
      ]);
    for (const claims of refused) {
      const token = sign({ ...claims, sub: '7' }, { expiresIn: 60 });
      expect([claims, tokens.verify(token)]).toEqual([claims, undefined]);
      expect(verifierWith({}).verify(token)).toEqual({ id: 7 });
    }
  });

  it('with JWT_TYPES accepts only these types, in any case, with or without application/', () => {
    const tokens = verifierWith({ JWT_TYPES: 'at+jwt,application/JWT' });
    const payload = JSON.stringify({ sub: '7', exp: Math.floor(Date.now() / 1000) + 60 });
    const withType = (typ: unknown): string => signedByHand({ alg: 'HS256', typ }, payload);
    for (const typ of ['at+jwt', 'AT+JWT', 'application/at+jwt', 'JWT', 'jwt'])
      expect([typ, tokens.verify(withType(typ))]).toEqual([typ, { id: 7 }]);
    for (const typ of [
      undefined,
      null,
      '',
      'logout+jwt',
      'dpop+jwt',
      'x/at+jwt',
      'application/x/jwt',
      ['JWT'],
      1,
    ])
      expect([typ, tokens.verify(withType(typ))]).toEqual([typ, undefined]);
  });

  it('accepts tokens of npm run token with every setting', () => {
    const loaded = loadSettings({
      ...ENVIRONMENT,
      JWT_SECRET_PREVIOUS: `before ${JWT_SECRET}`,
      JWT_ISSUER: 'main',
      JWT_AUDIENCE: 'chat',
      JWT_TYPES: 'at+jwt',
      JWT_REQUIRED_CLAIMS: 'prv=23bd,role,aud,iss,jti',
    });
    expect(new TokenVerifier(loaded).verify(signToken(7, loaded.jwt, 60))).toMatchObject({ id: 7 });
  });
});

function signedByHand(header: object, payload: string): string {
  const signed = [JSON.stringify(header), payload]
    .map((part) => Buffer.from(part).toString('base64url'))
    .join('.');
  return `${signed}.${createHmac('sha256', JWT_SECRET).update(signed).digest('base64url')}`;
}

function makePair(kind: 'rsa' | 'ec'): { publicKey: KeyObject; privateKey: KeyObject } {
  return kind === 'rsa'
    ? generateKeyPairSync('rsa', { modulusLength: 2048 })
    : generateKeyPairSync('ec', { namedCurve: 'P-256' });
}

const pem = (key: KeyObject): string => key.export({ type: 'spki', format: 'pem' }).toString();
