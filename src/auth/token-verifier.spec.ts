import { afterEach, describe, expect, it, jest } from '@jest/globals';
import jwt from 'jsonwebtoken';
import { loadSettings } from '../config/settings.js';
import { TokenVerifier } from './token-verifier.js';

const JWT_SECRET = 'a secret that only this test knows, 0123456789';
const settings = loadSettings({
  APP_URL: 'http://localhost:3000',
  DATABASE_URL: 'postgres://localhost/none',
  JWT_SECRET,
  STORAGE_DRIVER: 'local',
  LOCAL_STORAGE_DIR: 'none',
  LOCAL_STORAGE_SECRET: JWT_SECRET,
});
const sign = (claims: object, options: jwt.SignOptions = {}): string => jwt.sign(claims, JWT_SECRET, options);

describe('the token verifier', () => {
  afterEach(() => {
    jest.restoreAllMocks();
  });

  it('checks a signature once, and gives the same user from then on', () => {
    const tokens = new TokenVerifier(settings);
    const token = sign({ sub: '7' }, { expiresIn: 60 });
    const verify = jest.spyOn(jwt, 'verify');
    expect(tokens.verify(token)).toEqual({ id: 7 });
    expect(tokens.verify(token)).toEqual({ id: 7 });
    expect(verify).toHaveBeenCalledTimes(1);
  });

  it('ends a remembered token when it expires, to the second, also when the clock is set forward', () => {
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

  it('forgets when it is told to', () => {
    const tokens = new TokenVerifier(settings);
    const token = sign({ sub: '7' }, { expiresIn: 60 });
    tokens.verify(token);
    const verify = jest.spyOn(jwt, 'verify');
    tokens.forget(token);
    expect(tokens.remembered).toBe(0);
    expect(tokens.verify(token)).toEqual({ id: 7 });
    expect(verify).toHaveBeenCalledTimes(1);
  });

  it('remembers no token that is not valid, and never more than its size allows', () => {
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
      tokens.verify(sign({ sub: String(user), filler: 'x'.repeat(400_000) }, { expiresIn: 60 }));
    }
    expect(tokens.remembered).toBe(15);
  });
});
