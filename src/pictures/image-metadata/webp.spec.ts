import { beforeAll, describe, expect, it } from '@jest/globals';
import sharp from 'sharp';
import { colourProfile } from '../../../test/support/hostile-pictures.js';
import { plainProfile } from './colour-profile.js';
import { orientationExif } from './exif-orientation.js';
import { MalformedImageError } from './malformed-image-error.js';
import { webpWithoutMetadata as clean } from './webp.js';

const webpWithoutMetadata = (bytes: Buffer): Buffer => clean(bytes).bytes;

const SECRET = 'Dr. Jane Roe, Room 7';

function chunk(type: string, data: Buffer | string, padding = 0): Buffer {
  const bytes = Buffer.from(data as string, 'latin1');
  const header = Buffer.alloc(8);
  header.write(type);
  header.writeUInt32LE(bytes.length, 4);
  return Buffer.concat([header, bytes, bytes.length % 2 === 1 ? Buffer.of(padding) : Buffer.alloc(0)]);
}
const webp = (...chunks: Buffer[]): Buffer => chunk('RIFF', Buffer.concat([Buffer.from('WEBP'), ...chunks]));
const vp8x = (flags: number): Buffer => chunk('VP8X', Buffer.of(flags, 0, 0, 0, 23, 0, 0, 15, 0, 0));
const frame = (...chunks: Buffer[]): Buffer =>
  chunk('ANMF', Buffer.concat([Buffer.alloc(6), Buffer.of(23, 0, 0, 15, 0, 0, 50, 0, 0, 0), ...chunks]));

const ANIM = chunk('ANIM', Buffer.alloc(6));
const [PROFILE, ALPHA, EXIF, XMP, ANIMATION] = [0x20, 0x10, 0x08, 0x04, 0x02];

/** The chunk of a picture, and the simplest file of it. */
let picture: Buffer;
let plain: Buffer;
beforeAll(async () => {
  plain = await sharp({ create: { width: 24, height: 16, channels: 3, background: 'teal' } })
    .webp()
    .toBuffer();
  picture = plain.subarray(12);
});

describe('webpWithoutMetadata', () => {
  it('does not change a plain picture', () => expect(webpWithoutMetadata(plain).equals(plain)).toBe(true));

  it.each([
    ['EXIF', chunk('EXIF', `II*\0\x08\0\0\0\0\0\0\0\0\0${SECRET}`)],
    ['XMP', chunk('XMP ', SECRET)],
    ['an unknown chunk', chunk('SECR', `${SECRET}!`)],
    ['a colour profile without its flag', chunk('ICCP', SECRET)],
    ['an animation without its flag', ANIM],
    ['a frame without the animation flag', frame(chunk('VP8L', SECRET))],
  ])('drops %s', (_what, block) => {
    const told = vp8x(EXIF | XMP | 0xc1);
    const expected = webp(vp8x(0), picture);
    expect(webpWithoutMetadata(webp(told, block, picture)).equals(expected)).toBe(true);
    expect(webpWithoutMetadata(webp(told, picture, block, block)).equals(expected)).toBe(true);
    expect(webpWithoutMetadata(webp(picture, block)).equals(plain)).toBe(true);
  });

  it('drops bytes after the stated length', () => {
    const tailed = Buffer.concat([
      plain,
      Buffer.from('<html><script>alert(1)</script>'),
      chunk('XMP ', SECRET),
    ]);
    expect(webpWithoutMetadata(tailed).equals(plain)).toBe(true);
  });

  it('drops a second picture', () => {
    const twice = webp(vp8x(0), picture, chunk('VP8L', SECRET), chunk('VP8 ', SECRET));
    expect(webpWithoutMetadata(twice).equals(webp(vp8x(0), picture))).toBe(true);
  });

  it('keeps the colour profile and transparency, with empty padding', () => {
    const odd = Buffer.concat([plainProfile(colourProfile([])) ?? Buffer.alloc(0), Buffer.alloc(1)]);
    const original = webp(vp8x(PROFILE | ALPHA), chunk('ICCP', odd, 7), chunk('ALPH', '\0', 7), picture);
    const expected = webp(vp8x(PROFILE | ALPHA), chunk('ICCP', odd), chunk('ALPH', '\0'), picture);
    expect(webpWithoutMetadata(original).equals(expected)).toBe(true);
  });

  it('drops extra bytes and unused bits of VP8X', () => {
    const long = chunk(
      'VP8X',
      Buffer.concat([vp8x(0xff ^ ANIMATION).subarray(8, 9), Buffer.from(`abc\x17\0\0\x0f\0\0${SECRET}`)]),
    );
    expect(webpWithoutMetadata(webp(long, picture)).equals(webp(vp8x(ALPHA), picture))).toBe(true);
  });

  it('keeps an animation, with only the picture of each frame', () => {
    const told = frame(chunk('ALPH', '\0'), chunk('SECR', SECRET), picture, chunk('XMP ', SECRET), picture);
    const cleaned = webpWithoutMetadata(webp(vp8x(ANIMATION), ANIM, ANIM, told, chunk('SECR', SECRET), told));
    const kept = frame(chunk('ALPH', '\0'), picture);
    expect(cleaned.equals(webp(vp8x(ANIMATION), ANIM, kept, kept))).toBe(true);
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('keeps orientation %d, and no other tag', async (orientation) => {
    const told = await sharp(plain)
      .withExif({ IFD0: { Artist: SECRET } })
      .withMetadata({ orientation })
      .webp()
      .toBuffer();
    const cleaned = webpWithoutMetadata(told);
    expect(cleaned.includes('Jane Roe')).toBe(false);
    expect((await sharp(cleaned).metadata()).orientation ?? 1).toBe(orientation);

    const kept = chunk('EXIF', orientationExif(orientation));
    const prefixed = chunk('EXIF', Buffer.concat([Buffer.from('Exif\0\0'), orientationExif(orientation)]));
    const expected = orientation === 1 ? webp(vp8x(0), picture) : webp(vp8x(EXIF), picture, kept);
    for (const exif of [kept, prefixed]) {
      expect(webpWithoutMetadata(webp(vp8x(EXIF), picture, exif)).equals(expected)).toBe(true);
    }
  });

  it('keeps the padding of image data, which decoders read', () => {
    const odd = webp(chunk('VP8 ', 'odd', 7));
    expect(webpWithoutMetadata(odd).equals(odd)).toBe(true);
  });

  it('reads a file without its last padding byte', () => {
    const odd = webp(chunk('VP8 ', 'odd'));
    const short = Buffer.from(odd.subarray(0, -1));
    short.writeUInt32LE(short.length - 8, 4);
    expect(webpWithoutMetadata(short).equals(odd)).toBe(true);
  });

  it.each([
    ['no bytes', (): Buffer => Buffer.alloc(0)],
    ['only a header', (): Buffer => webp()],
    ['fewer bytes than stated', (): Buffer => plain.subarray(0, -1)],
    ['no picture', (): Buffer => webp(vp8x(0))],
    ['another chunk first', (): Buffer => webp(chunk('XMP ', SECRET), picture)],
    ['a chunk after its end', (): Buffer => webp(vp8x(0), Buffer.from('VP8 \xff\xff\xff\xff', 'latin1'))],
    ['a truncated VP8X chunk', (): Buffer => webp(chunk('VP8X', 'short'), picture)],
    [
      'an animation of a wrong length',
      (): Buffer => webp(vp8x(ANIMATION), chunk('ANIM', SECRET), frame(picture)),
    ],
    ['a frame before its animation', (): Buffer => webp(vp8x(ANIMATION), frame(picture), ANIM)],
    ['a truncated frame', (): Buffer => webp(vp8x(ANIMATION), ANIM, chunk('ANMF', 'short'))],
    ['a frame without a picture', (): Buffer => webp(vp8x(ANIMATION), ANIM, frame())],
    ['transparency twice', (): Buffer => webp(vp8x(ALPHA), chunk('ALPH', 'a'), chunk('VP8L', 'odd'))],
  ])('refuses a file with %s', (_what, bytes) => {
    expect(() => webpWithoutMetadata(bytes())).toThrow(MalformedImageError);
  });
});
