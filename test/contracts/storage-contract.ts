import { beforeAll, describe, expect, it } from '@jest/globals';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import {
  InvalidStorageKeyError,
  ObjectExistsError,
  ObjectNotFoundError,
} from '../../src/storage/storage-errors.js';
import type { SignedUrl, StorageProvider } from '../../src/storage/storage-provider.js';

/** Odd file names that must name the same object in every operation. */
const ODD_NAMES = [
  'with space.png',
  'plus+and&and=.png',
  'percent%20%2F.png',
  'quote\'s "and" (brackets) [x]!*.png',
  'question?mark#hash;semicolon:colon@at$dollar,comma.png',
  'ünïcödé 图片 صورة 🩹.png',
  '~tilde_and-dash..dots...png',
  `${'long'.repeat(58)}.png`,
];

const IMPOSSIBLE_KEYS = [
  '',
  '/leading',
  'trailing/',
  'a//b',
  'a/../b',
  './a',
  '..',
  'nul\0.png',
  'new\nline',
  'back\\slash',
  '\ud800',
  'x'.repeat(2000),
];

/**
 * The contract of the StorageProvider, as tests. Every driver runs them.
 *
 * @param getStorage called when the tests run
 */
export function describeStorageContract(getStorage: () => StorageProvider): void {
  const contentType = 'image/png';
  const folder = `contract/${randomUUID()}`;
  const bytes = randomBytes(50_000);
  let storage: StorageProvider;

  beforeAll(() => {
    storage = getStorage();
  });

  const put = async (name: string, content = bytes): Promise<string> => {
    const key = `${folder}/${name}`;
    await storage.put(key, [content], { contentType });
    return key;
  };
  const read = async (key: string): Promise<Buffer> => buffer(await storage.get(key));
  const sign = (key: string, expiresIn = 60): Promise<SignedUrl> =>
    storage.signedUrl(key, expiresIn, new Date());

  it('refuses to replace an object where the writer says so', async () => {
    const key = await put('once.png');
    const again = storage.put(key, [Buffer.from('other')], { contentType, ifAbsent: true });
    await expect(again).rejects.toBeInstanceOf(ObjectExistsError);
    expect((await read(key)).equals(bytes)).toBe(true);
  });

  it('lets one of many simultaneous writers win where they say so', async () => {
    const key = `${folder}/race.png`;
    const writers = Array.from({ length: 8 }, (_, index) => Buffer.alloc(5000, index));
    const results = await Promise.allSettled(
      writers.map((content) => storage.put(key, [content], { contentType, ifAbsent: true })),
    );
    const winners = results.flatMap(({ status }, index) => (status === 'fulfilled' ? [index] : []));
    expect(winners).toHaveLength(1);
    expect((await read(key)).equals(writers[winners[0] ?? -1] ?? Buffer.alloc(0))).toBe(true);
  });

  it('tells the digest of an object, and that there is none', async () => {
    const key = await put('digest.png');
    expect(await storage.digest(key)).toBe(createHash('sha256').update(bytes).digest('hex'));
    expect(await storage.digest(`${folder}/none.png`)).toBeUndefined();
  });

  it('returns the stored bytes, size and content type', async () => {
    const key = await put('object.png');
    expect((await read(key)).equals(bytes)).toBe(true);
    expect(await storage.head(key)).toEqual({ size: bytes.length, contentType });
  });

  it('joins the pieces of an object', async () => {
    const key = `${folder}/pieces.png`;
    const pieces = [bytes.subarray(0, 20_000), bytes.subarray(20_000, 20_001), bytes.subarray(20_001)];
    await storage.put(key, pieces, { contentType });
    expect((await read(key)).equals(bytes)).toBe(true);
    expect(await storage.head(key)).toEqual({ size: bytes.length, contentType });
  });

  it('replaces an object', async () => {
    const key = await put('replaced.png');
    await put('replaced.png', Buffer.from('new'));
    expect((await read(key)).toString()).toBe('new');
    expect(await storage.head(key)).toMatchObject({ size: 3 });
  });

  it('stores an empty object', async () => {
    const key = await put('empty.png', Buffer.alloc(0));
    expect(await storage.head(key)).toMatchObject({ size: 0 });
    expect(await read(key)).toHaveLength(0);
  });

  it('reports a missing object, and its signed URL is answered 404', async () => {
    const key = `${folder}/missing.png`;
    expect(await storage.head(key)).toBeUndefined();
    await expect(storage.get(key)).rejects.toBeInstanceOf(ObjectNotFoundError);
    expect(await statusOf((await sign(key)).url)).toBe(404);
  });

  it('deletes an object, also twice', async () => {
    const key = await put('removed.png');
    await storage.delete(key);
    await storage.delete(key);
    expect(await storage.head(key)).toBeUndefined();
    expect(await statusOf((await sign(key)).url)).toBe(404);
  });

  it.each(ODD_NAMES)('stores, signs and deletes an object named %j', async (name) => {
    const content = Buffer.from(name);
    const key = await put(name, content);
    expect((await read(key)).equals(content)).toBe(true);
    const response = await fetch((await sign(key)).url);
    expect([response.status, await response.text()]).toEqual([200, name]);
    await storage.delete(key);
    expect(await storage.head(key)).toBeUndefined();
  });

  it.each(IMPOSSIBLE_KEYS)('refuses the invalid key %j in every operation', async (key) => {
    const error = InvalidStorageKeyError;
    await expect(storage.put(key, [bytes], { contentType })).rejects.toBeInstanceOf(error);
    await expect(storage.head(key)).rejects.toBeInstanceOf(error);
    await expect(storage.get(key)).rejects.toBeInstanceOf(error);
    await expect(storage.delete(key)).rejects.toBeInstanceOf(error);
    await expect(sign(key)).rejects.toBeInstanceOf(error);
  });

  it('stores a whole object after concurrent writes to the same key', async () => {
    const contents = Array.from({ length: 8 }, () => randomBytes(200_000));
    await Promise.all(contents.map((content) => put('contended.png', content)));
    const stored = await read(`${folder}/contended.png`);
    expect(contents.some((content) => content.equals(stored))).toBe(true);
  });

  it('stores all objects of concurrent writes to different keys', async () => {
    const contents = Array.from({ length: 20 }, (_, index) => Buffer.from(`content ${index}`));
    const keys = await Promise.all(contents.map((content, index) => put(`many-${index}.png`, content)));
    expect(await Promise.all(keys.map(async (key) => (await read(key)).toString()))).toEqual(
      contents.map(String),
    );
  });

  describe('a signed URL', () => {
    let key: string;

    beforeAll(async () => {
      key = await put('signed.png');
    });

    it('reads the object with its content type and a private cache header', async () => {
      const response = await fetch((await sign(key)).url);
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe(contentType);
      expect(response.headers.get('cache-control')).toMatch(/^private, max-age=\d+$/);
      expect(response.headers.get('content-disposition')).toMatch(/^inline/);
      expect(Buffer.from(await response.arrayBuffer()).equals(bytes)).toBe(true);
    });

    it('is answered 403 without its query', async () => {
      const { url } = await sign(key);
      expect(await statusOf(url.slice(0, url.indexOf('?')))).toBe(403);
    });

    it('has the exact time at which it expires', async () => {
      const signedAt = new Date('2026-02-03T04:05:06.789Z');
      expect(await storage.signedUrl(key, 3600, signedAt)).toMatchObject({
        expiresIn: 3600,
        expiresAt: new Date('2026-02-03T05:05:06.000Z'),
      });
    });

    it('is answered 403 after it has expired', async () => {
      const past = new Date(Date.now() - 61_000);
      expect(await statusOf((await storage.signedUrl(key, 60, past)).url)).toBe(403);
      const almost = new Date(Date.now() - 50_000);
      expect(await statusOf((await storage.signedUrl(key, 60, almost)).url)).toBe(200);
    });

    it('is refused when any character is changed', async () => {
      const { url } = await sign(key);
      const start = new URL(url).origin.length + 1;
      const accepted: string[] = [];
      for (let index = start; index < url.length; index += 1) {
        const changed = `${url.slice(0, index)}${otherCharacter(url.charAt(index))}${url.slice(index + 1)}`;
        const status = await statusOf(changed);
        if (status < 400) accepted.push(`${status} ${changed}`);
      }
      expect(accepted).toEqual([]);
    });

    it('can not write or delete the object', async () => {
      const { url } = await sign(key);
      for (const method of ['PUT', 'DELETE', 'POST']) {
        expect(await statusOf(url, method)).toBeGreaterThanOrEqual(400);
      }
      expect((await read(key)).equals(bytes)).toBe(true);
    });
  });

  it('answers a ping', async () => {
    await expect(storage.ping(AbortSignal.timeout(5000))).resolves.toBeUndefined();
  });
}

/** The status of a response. An unread body would keep its connection, and Jest's process, for a minute. */
async function statusOf(url: string, method = 'GET'): Promise<number> {
  const response = await fetch(url, { method });
  await response.arrayBuffer();
  return response.status;
}

/** Another character of the same kind. Upper and lower case may be the same URL (`%2f`; RFC 3986, 2.1). */
function otherCharacter(character: string): string {
  if (/[89zZ]/.test(character)) return { 8: '3', 9: '2', z: 'a', Z: 'A' }[character] ?? '-';
  if (/[\da-z]/i.test(character)) return String.fromCharCode(character.charCodeAt(0) + 1);
  return character === '-' ? '_' : '-';
}
