import { beforeAll, describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { crc32, deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { colourProfile } from '../../../test/support/hostile-pictures.js';
import { plainProfile } from './colour-profile.js';
import { orientationExif } from './exif-orientation.js';
import { MalformedImageError } from './malformed-image-error.js';
import { pngWithoutMetadata as clean } from './png.js';

const pngWithoutMetadata = (bytes: Buffer): Buffer => clean(bytes).bytes;

const SECRET = 'Dr. Jane Roe, Room 7';
/** Signature and IHDR. */
const START_LENGTH = 33;
const IEND = chunk('IEND', '');
const animation = readFileSync('test/images/corpus/animated.png');

function chunk(type: string, data: Buffer | string): Buffer {
  const body = Buffer.concat([Buffer.from(type), Buffer.from(data as string, 'latin1')]);
  const [length, crc] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(body.length - 4);
  crc.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, crc]);
}
const uint32s = (...values: readonly number[]): Buffer =>
  Buffer.from(values.flatMap((value) => [0, 0, value >> 8, value & 0xff]));
const damaged = (bytes: Buffer): Buffer =>
  Buffer.concat([bytes.subarray(0, -1), Buffer.of((bytes.at(-1) ?? 0) ^ 1)]);
/** The start of a true-colour picture of 2 × 2. */
const header = (colourType = 2, interlace = 0): Buffer =>
  Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', Buffer.of(0, 0, 0, 2, 0, 0, 0, 2, 8, colourType, 0, 0, interlace)),
  ]);
const palette = chunk('PLTE', 'abc');
const PIXELS = deflateSync(Buffer.alloc(14, 0));

/** The control of a frame of the picture's size. */
const control = (sequence: number, size = 2, left = 0, ways = [0, 0]): Buffer =>
  chunk('fcTL', Buffer.concat([uint32s(sequence, size, size, left, 0), Buffer.of(0, 0, 0, 0, ...ways)]));
const frameData = (sequence: number, data: Buffer): Buffer =>
  chunk('fdAT', Buffer.concat([uint32s(sequence), data]));
/** An animation of two frames, with other chunks before and behind the picture. */
const animatedPicture = (before: readonly Buffer[], behind: readonly Buffer[]): Buffer =>
  Buffer.concat([header(), chunk('acTL', uint32s(2, 0)), ...before, chunk('IDAT', PIXELS), ...behind, IEND]);

let plain: Buffer;
beforeAll(() => {
  plain = Buffer.concat([header(), chunk('IDAT', PIXELS), IEND]);
});
const withFirst = (...inserted: Buffer[]): Buffer =>
  Buffer.concat([plain.subarray(0, START_LENGTH), ...inserted, plain.subarray(START_LENGTH)]);
const withLast = (...inserted: Buffer[]): Buffer =>
  Buffer.concat([plain.subarray(0, -IEND.length), ...inserted, IEND]);

describe('pngWithoutMetadata', () => {
  it('does not change a plain picture', () => expect(pngWithoutMetadata(plain).equals(plain)).toBe(true));
  it('does not change a plain animation', () =>
    expect(pngWithoutMetadata(animation).equals(animation)).toBe(true));

  it.each([
    ['text', chunk('tEXt', `Author\0${SECRET}`)],
    ['compressed text', chunk('zTXt', Buffer.concat([Buffer.from('Author\0\0'), deflateSync(SECRET)]))],
    ['XMP', chunk('iTXt', `XML:com.adobe.xmp\0\0\0\0\0${SECRET}`)],
    ['EXIF of ImageMagick', chunk('zTXt', `Raw profile type exif\0\0${SECRET}`)],
    ['EXIF', chunk('eXIf', Buffer.from(`II*\0\x08\0\0\0\0\0\0\0\0\0${SECRET}`))],
    ['the modification time', chunk('tIME', Buffer.of(7, 0xe9, 11, 5, 21, 50, 1))],
    ['a suggested palette', chunk('sPLT', `${SECRET}\0\x08`)],
    ['a histogram', chunk('hIST', '\0\x01')],
    ['a position on paper', chunk('oFFs', '\0\0\0\x01\0\0\0\x01\0')],
    ['a calibration', chunk('pCAL', SECRET)],
    ['a private chunk', chunk('prVt', SECRET)],
    ['a chunk of a camera', chunk('vpAg', SECRET)],
    ['an unknown critical chunk', chunk('SECR', SECRET)],
    ['a second header', chunk('IHDR', Buffer.of(0, 0, 0, 9, 0, 0, 0, 9, 8, 2, 0, 0, 0))],
    ['a gamma of a wrong length', chunk('gAMA', SECRET)],
    ['a gamma with a wrong checksum', damaged(chunk('gAMA', '\0\0\xb1\x8f'))],
    ['a transparency of a wrong length', chunk('tRNS', SECRET)],
    ['a background of another colour type', chunk('bKGD', '\x01')],
    ['significant bits of another colour type', chunk('sBIT', '\x01\x01\x01\x01')],
    ['an invalid colour profile', chunk('iCCP', `icc\0\0${SECRET}`)],
    [
      'a colour profile that no decoder can use',
      chunk('iCCP', Buffer.concat([Buffer.from('icc\0\0'), deflateSync(SECRET)])),
    ],
    ['a colour profile without a name', chunk('iCCP', SECRET)],
    ['a frame without an animation', chunk('fcTL', Buffer.alloc(26))],
    ['frame data without an animation', chunk('fdAT', SECRET)],
  ])('drops %s', (_what, block) => {
    expect(pngWithoutMetadata(withFirst(block)).equals(plain)).toBe(true);
    expect(pngWithoutMetadata(withFirst(block, block)).equals(plain)).toBe(true);
    expect(pngWithoutMetadata(withLast(block)).equals(plain)).toBe(true);
  });

  it.each([
    ['gAMA', '\0\0\xb1\x8f'],
    ['cHRM', '\0'.repeat(32)],
    ['sRGB', '\0'],
    ['cICP', '\x01\x0d\0\x01'],
    ['mDCV', '\0'.repeat(24)],
    ['cLLI', '\0'.repeat(8)],
    ['sBIT', '\x05\x06\x05'],
    ['bKGD', '\0\x01\0\x02\0\x03'],
    ['pHYs', '\0\0\x0b\x13\0\0\x0b\x13\x01'],
    ['tRNS', '\0\x01\0\x02\0\x03'],
    ['PLTE', 'abcdef'],
  ])('keeps %s once, before the picture', (type, data) => {
    const block = chunk(type, data);
    expect(pngWithoutMetadata(withFirst(block)).equals(withFirst(block))).toBe(true);
    if (type === 'PLTE') return;
    expect(pngWithoutMetadata(withFirst(block, block)).equals(withFirst(block))).toBe(true);
    expect(pngWithoutMetadata(withLast(block)).equals(plain)).toBe(true);
  });

  it('keeps the colour profile, without its name and trailing bytes', () => {
    const profile = deflateSync(plainProfile(colourProfile([])) ?? '');
    const named = chunk('iCCP', Buffer.concat([Buffer.from(`${SECRET}\0\0`), profile, Buffer.from(SECRET)]));
    const nameless = chunk('iCCP', Buffer.concat([Buffer.from('icc\0\0'), profile]));
    expect(pngWithoutMetadata(withFirst(named, named)).equals(withFirst(nameless))).toBe(true);
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('keeps orientation %d, and no other tag', async (orientation) => {
    const told = await sharp(plain)
      .withExif({ IFD0: { Artist: SECRET } })
      .withMetadata({ orientation })
      .png()
      .toBuffer();
    const cleaned = pngWithoutMetadata(told);
    const kept = chunk('eXIf', orientationExif(orientation));
    expect(cleaned.includes(kept)).toBe(orientation !== 1);
    expect(cleaned.includes('Jane Roe')).toBe(false);
    expect((await sharp(cleaned).metadata()).orientation ?? 1).toBe(orientation);
    expect(pngWithoutMetadata(withLast(kept, kept)).equals(orientation === 1 ? plain : withLast(kept))).toBe(
      true,
    );
  });

  it.each([
    ['an HTML page', '<html><script>alert(1)</script></html>'],
    ['a ZIP', `PK\x03\x04${SECRET}PK\x05\x06`],
  ])('drops %s after the end', (_what, tail) => {
    expect(pngWithoutMetadata(Buffer.concat([plain, Buffer.from(tail)])).equals(plain)).toBe(true);
    expect(
      pngWithoutMetadata(Buffer.concat([plain.subarray(0, -12), chunk('IEND', tail)])).equals(plain),
    ).toBe(true);
  });

  it('drops bytes after the end of the compressed data', () => {
    const hidden = Buffer.from(SECRET);
    const inside = Buffer.concat([header(), chunk('IDAT', Buffer.concat([PIXELS, hidden])), IEND]);
    const [half, rest] = [PIXELS.subarray(0, 5), PIXELS.subarray(5)];
    const split = [half, rest, hidden, hidden].map((data) => chunk('IDAT', data));
    expect(pngWithoutMetadata(inside).equals(plain)).toBe(true);
    expect(pngWithoutMetadata(Buffer.concat([header(), ...split, IEND])).equals(plain)).toBe(true);
  });

  it('drops bytes after the end of an interlaced picture', () => {
    // Adam7 splits the four pixels into three passes: a pixel, a pixel, and a row of two.
    const pixels = deflateSync(Buffer.alloc(4 + 4 + 7, 0));
    const picture = (data: Buffer): Buffer => Buffer.concat([header(2, 1), chunk('IDAT', data), IEND]);
    const cleaned = pngWithoutMetadata(picture(Buffer.concat([pixels, Buffer.from(SECRET)])));
    expect(cleaned.equals(picture(pixels))).toBe(true);
  });

  it('gives an end to a file without a whole one', () => {
    for (let missing = 1; missing <= IEND.length; missing += 1) {
      expect(pngWithoutMetadata(plain.subarray(0, -missing)).equals(plain)).toBe(true);
      expect(pngWithoutMetadata(animation.subarray(0, -missing)).equals(animation)).toBe(true);
    }
    const hidden = chunk('IDAT', Buffer.concat([PIXELS, Buffer.from(SECRET)]));
    expect(pngWithoutMetadata(Buffer.concat([header(), hidden])).equals(plain)).toBe(true);
  });

  it.each([
    ['an end of a wrong checksum', (): Buffer => damaged(plain)],
    [
      'an end of a wrong length',
      (): Buffer => Buffer.concat([plain.subarray(0, -IEND.length), Buffer.from('ffffffff49454e44', 'hex')]),
    ],
    [
      'a chunk in place of its end that is cut',
      (): Buffer => Buffer.concat([plain.subarray(0, -IEND.length), Buffer.from('\0\0\0\x60tEXtAuthor')]),
    ],
  ])('gives an end to a file with %s', (_what, bytes) => {
    expect(pngWithoutMetadata(bytes()).equals(plain)).toBe(true);
  });

  it.each([
    ['a palette of a wrong length', (): Buffer => withFirst(chunk('PLTE', 'abcd'))],
    ['a palette after the image data', (): Buffer => withLast(chunk('PLTE', 'abc'))],
    ['image data after another chunk', (): Buffer => withLast(chunk('tEXt', 'a'), chunk('IDAT', PIXELS))],
    [
      'image data after the frames',
      (): Buffer => withLast(chunk('tEXt', 'a'), chunk('PLTE', 'abc'), chunk('IDAT', SECRET)),
    ],
  ])('drops %s, as decoders do', (_what, bytes) => {
    expect(pngWithoutMetadata(bytes()).equals(plain)).toBe(true);
  });

  it.each([
    ['frames in another order', [control(0)], [control(2), frameData(1, PIXELS)]],
    ['frames of the same number', [control(0)], [control(0), frameData(0, PIXELS)]],
    ['data of a frame without a number', [control(0)], [control(1), chunk('fdAT', '')]],
    ['fewer frames than announced', [control(0)], []],
    ['no frame', [], []],
    ['a frame beside its canvas', [control(0)], [control(1, 2, 1), frameData(2, PIXELS)]],
    ['a frame larger than its canvas', [control(0)], [control(1, 3), frameData(2, PIXELS)]],
    ['an unknown disposal', [control(0, 2, 0, [3, 0])], [control(1), frameData(2, PIXELS)]],
    ['an unknown blending', [control(0, 2, 0, [0, 2])], [control(1), frameData(2, PIXELS)]],
    ['a frame without pixels', [control(0)], [control(1, 0), frameData(2, PIXELS)]],
    ['a picture larger than its frame', [control(0, 1)], [control(1), frameData(2, PIXELS)]],
  ])('refuses an animation with %s, of which browsers show nothing', (_what, before, behind) => {
    expect(() => pngWithoutMetadata(animatedPicture(before, behind))).toThrow(MalformedImageError);
  });

  it('drops frames that the animation does not count', () => {
    const frame = [chunk('fcTL', Buffer.alloc(26)), chunk('fdAT', SECRET)];
    const longer = Buffer.concat([animation.subarray(0, -12), ...frame, IEND]);
    expect(pngWithoutMetadata(longer).equals(animation)).toBe(true);
  });

  it.each([
    ['no data', Buffer.alloc(0)],
    ['broken data', Buffer.from(SECRET)],
    ['too few rows', deflateSync(Buffer.alloc(7))],
    ['data without their end', PIXELS.subarray(0, -6)],
  ])('refuses an animation with %s in a frame behind the first', (_what, data) => {
    const animated = (last: Buffer): Buffer =>
      animatedPicture([control(0)], [control(1), frameData(2, last)]);
    expect(pngWithoutMetadata(animated(PIXELS)).equals(animated(PIXELS))).toBe(true);
    expect(() => pngWithoutMetadata(animated(data))).toThrow(MalformedImageError);
  });

  it.each([
    ['no bytes', (): Buffer => Buffer.alloc(0)],
    ['only a signature', (): Buffer => plain.subarray(0, 8)],
    ['no header', (): Buffer => Buffer.concat([plain.subarray(0, 8), plain.subarray(START_LENGTH)])],
    [
      'a header of a wrong length',
      (): Buffer => Buffer.concat([plain.subarray(0, 8), chunk('IHDR', ''), IEND]),
    ],
    ['cut image data', (): Buffer => plain.subarray(0, -13)],
    ['no picture', (): Buffer => Buffer.concat([header(), IEND])],
    ['a missing palette', (): Buffer => Buffer.concat([header(3), chunk('IDAT', PIXELS), IEND])],
    ['two palettes', (): Buffer => Buffer.concat([header(3), palette, palette, chunk('IDAT', PIXELS), IEND])],
    [
      'a palette of a wrong length',
      (): Buffer => Buffer.concat([header(3), chunk('PLTE', 'abcd'), chunk('IDAT', PIXELS), IEND]),
    ],
    [
      'a wrong checksum of its header',
      (): Buffer => Buffer.concat([damaged(header()), chunk('IDAT', PIXELS), IEND]),
    ],
    [
      'a wrong checksum of its picture',
      (): Buffer => Buffer.concat([header(), damaged(chunk('IDAT', PIXELS)), IEND]),
    ],
    ['a chunk after its end', (): Buffer => withFirst(Buffer.from('ffffffff74455874', 'hex'))],
  ])('refuses a file with %s', (_what, bytes) => {
    expect(() => pngWithoutMetadata(bytes())).toThrow(MalformedImageError);
  });
});
