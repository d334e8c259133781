import { beforeAll, describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import sharp from 'sharp';
import { orientationExif } from './exif-orientation.js';
import { jpegWithoutMetadata as clean } from './jpeg.js';
import { MalformedImageError } from './malformed-image-error.js';

const jpegWithoutMetadata = (bytes: Buffer): Buffer => clean(bytes).bytes;

const SECRET = 'Dr. Jane Roe, Room 7';
const EOI = Buffer.from('ffd9', 'hex');
const fixture = (name: string): Buffer => readFileSync(`test/images/corpus/${name}`);

function segment(marker: number, data: Buffer | string): Buffer {
  const bytes = Buffer.from(data as string, 'latin1');
  return Buffer.concat([Buffer.of(0xff, marker, (bytes.length + 2) >> 8, (bytes.length + 2) & 0xff), bytes]);
}
const exif = (tiff: Buffer): Buffer => segment(0xe1, Buffer.concat([Buffer.from('Exif\0\0'), tiff]));
const jfif = (thumbnail: '' | 'rgb'): Buffer =>
  segment(0xe0, `JFIF\0\x01\x02\x01\0\x48\0\x48${thumbnail ? '\x01\x01' : '\0\0'}${thumbnail}`);

/** A picture with only what decoding needs. */
let plain: Buffer;
beforeAll(async () => {
  plain = await sharp({ create: { width: 24, height: 16, channels: 3, background: 'teal' } })
    .jpeg()
    .toBuffer();
});
const withFirst = (...inserted: Buffer[]): Buffer =>
  Buffer.concat([plain.subarray(0, 2), ...inserted, plain.subarray(2)]);
const behindScan = (...inserted: Buffer[]): Buffer =>
  Buffer.concat([plain.subarray(0, -2), ...inserted, plain.subarray(-2)]);

describe('jpegWithoutMetadata', () => {
  it('does not change a plain picture', () => expect(jpegWithoutMetadata(plain).equals(plain)).toBe(true));

  const dropped: readonly (readonly [string, Buffer])[] = [
    ['EXIF', exif(Buffer.from(`II*\0\x08\0\0\0\0\0\0\0\0\0${SECRET}`))],
    ['unreadable EXIF', segment(0xe1, `Exif\0\0${SECRET}`)],
    ['XMP', segment(0xe1, `http://ns.adobe.com/xap/1.0/\0${SECRET}`)],
    ['extended XMP', segment(0xe1, `http://ns.adobe.com/xmp/extension/\0${SECRET}`)],
    ['IPTC', segment(0xed, `Photoshop 3.0\x008BIM${SECRET}`)],
    ['a comment', segment(0xfe, SECRET)],
    ['a colour profile that no decoder can use', segment(0xe2, `ICC_PROFILE\0\x01\x01${SECRET}`)],
    ['a JFXX thumbnail', segment(0xe0, `JFXX\0\x10${SECRET}`)],
    ['a truncated JFIF segment', segment(0xe0, `JFIF\0${SECRET.slice(0, 5)}`)],
    ['FlashPix', segment(0xe2, `FPXR\0${SECRET}`)],
    ['a multi-picture index', segment(0xe2, `MPF\0${SECRET}`)],
    ['a truncated Adobe segment', segment(0xee, 'Adobe\0\x64')],
    ['a Ducky segment', segment(0xec, `Ducky${SECRET}`)],
    ['a segment of a camera', segment(0xe4, SECRET)],
    ['a reserved segment', segment(0xf7, SECRET)],
    ['bytes that are not a segment', Buffer.from(`<script>${SECRET}</script>`)],
    ['a segment shorter than its length field', Buffer.from('ffe10001', 'hex')],
    ['a comment of no length', Buffer.from('fffe0000', 'hex')],
    ['a number of lines of a wrong length', segment(0xdc, `\0\x10${SECRET}`)],
    ['a restart marker outside a scan', Buffer.from('ffd3', 'hex')],
    ['fill bytes', Buffer.from('ffffffff', 'hex')],
  ];
  it.each(dropped)('drops %s', (_what, block) => {
    expect(jpegWithoutMetadata(withFirst(block)).equals(plain)).toBe(true);
    expect(jpegWithoutMetadata(withFirst(block, block)).equals(plain)).toBe(true);
    // In a scan a marker ends the data. Other bytes look like image data.
    if (block[0] === 0xff && block[1] !== 0xd3) {
      expect(jpegWithoutMetadata(behindScan(block)).equals(plain)).toBe(true);
    }
  });

  it.each([
    ['a ZIP', Buffer.from(`PK\x03\x04${SECRET}PK\x05\x06`)],
    ['an HTML page', Buffer.from('<html><script>alert(1)</script></html>')],
    ['a second picture', Buffer.concat([Buffer.from('ffd8', 'hex'), segment(0xfe, SECRET), EOI])],
    ['a motion photo', Buffer.from('\0\0\0\x18ftypmp42')],
  ])('drops %s after the end', (_what, tail) => {
    expect(jpegWithoutMetadata(Buffer.concat([plain, tail])).equals(plain)).toBe(true);
  });

  it.each([
    ['no end marker', Buffer.alloc(0)],
    ['half an end marker', Buffer.of(0xff)],
    ['fill bytes in place of its end marker', Buffer.alloc(3, 0xff)],
    ['zeros in place of its end marker', Buffer.alloc(2)],
    ['many zeros in place of its end marker', Buffer.alloc(5000)],
    ['zeros and half an end marker', Buffer.of(0, 0, 0xff)],
  ])('gives an end to a file with %s', (_what, tail) => {
    const cut = Buffer.concat([plain.subarray(0, -2), tail]);
    expect(jpegWithoutMetadata(cut).equals(plain)).toBe(true);
    const stuffed = Buffer.concat([plain.subarray(0, -2), Buffer.of(0xff, 0)]);
    expect(jpegWithoutMetadata(Buffer.concat([stuffed, tail])).equals(Buffer.concat([stuffed, EOI]))).toBe(
      true,
    );
  });

  it('keeps JFIF as the first segment, without its thumbnail', () => {
    const cleaned = jpegWithoutMetadata(withFirst(exif(orientationExif(3)), jfif('rgb')));
    expect(cleaned.equals(withFirst(jfif(''), exif(orientationExif(3))))).toBe(true);
  });

  it('keeps only the colour transform of an Adobe segment', () => {
    const cleaned = jpegWithoutMetadata(withFirst(segment(0xee, `Adobe\0\x64\0\0\0\0\x01${SECRET}`)));
    expect(cleaned.equals(withFirst(segment(0xee, 'Adobe\0\x64\0\0\0\0\x01')))).toBe(true);
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('keeps orientation %d, and no other tag', async (orientation) => {
    const original = fixture(`orientation-${orientation}.jpg`);
    const cleaned = jpegWithoutMetadata(original);
    expect(cleaned.includes('Exif')).toBe(orientation !== 1);
    const shown = (bytes: Buffer): Promise<Buffer> => sharp(bytes).autoOrient().raw().toBuffer();
    expect((await shown(cleaned)).equals(await shown(original))).toBe(true);
  });

  it('uses the orientation of the first EXIF segment', () => {
    const cleaned = jpegWithoutMetadata(withFirst(exif(orientationExif(6)), exif(orientationExif(3))));
    expect(cleaned.equals(withFirst(exif(orientationExif(6))))).toBe(true);
  });

  it.each([
    ['no bytes', (): Buffer => Buffer.alloc(0)],
    ['no start marker', (): Buffer => plain.subarray(2)],
    ['two start markers', (): Buffer => withFirst(plain.subarray(0, 2))],
    ['two frames', (): Buffer => withFirst(segment(0xc0, '\x08\0\x10\0\x18\0'))],
    ['no picture', (): Buffer => Buffer.concat([plain.subarray(0, 2), jfif(''), EOI])],
    ['a scan before its frame', (): Buffer => withFirst(segment(0xda, '\x01\x01\0\0\x3f\0'))],
    ['a table shorter than its length field', (): Buffer => withFirst(Buffer.from('ffdb0001', 'hex'))],
    [
      'a segment after its end',
      (): Buffer => Buffer.concat([plain.subarray(0, 2), Buffer.from('ffe1ffff', 'hex')]),
    ],
    ['extra bytes in its restart interval', (): Buffer => withFirst(segment(0xdd, `\0\x04${SECRET}`))],
  ])('refuses a file with %s', (_what, bytes) => {
    expect(() => jpegWithoutMetadata(bytes())).toThrow(MalformedImageError);
  });
});
