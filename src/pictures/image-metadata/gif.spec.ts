import { describe, expect, it } from '@jest/globals';
import { gifWithoutMetadata as clean } from './gif.js';
import { ImageLimitError } from './image-limit-error.js';
import { MalformedImageError } from './malformed-image-error.js';

const gifWithoutMetadata = (bytes: Buffer): Buffer => clean(bytes).bytes;

const SECRET = 'Dr. Jane Roe, Room 7';
const TRAILER = Buffer.of(0x3b);
/** A header with a screen of 1 × 1 and two colours. */
const HEADER = Buffer.from('GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff', 'latin1');
/** The codes clear, colour 0 and end, of three bits each. */
const ONE_PIXEL = Buffer.of(0x44, 0x01);

const block = (data: Buffer | string): Buffer => {
  const bytes = Buffer.from(data as string, 'latin1');
  return Buffer.concat([Buffer.of(bytes.length), bytes]);
};
const extension = (label: number, ...blocks: (Buffer | string)[]): Buffer =>
  Buffer.concat([Buffer.of(0x21, label), ...blocks.map(block), Buffer.of(0)]);
const frame = (blocks: (Buffer | string)[] = [ONE_PIXEL], size = 1): Buffer =>
  Buffer.concat([Buffer.of(0x2c, 0, 0, 0, 0, size, 0, size, 0, 0, 2), ...blocks.map(block), Buffer.of(0)]);
const gif = (...parts: Buffer[]): Buffer => Buffer.concat([HEADER, ...parts, TRAILER]);
const control = (delay: number): Buffer => extension(0xf9, Buffer.of(0, delay, 0, 0));
const loop = (count: number, name = 'NETSCAPE2.0'): Buffer => extension(0xff, name, Buffer.of(1, count, 0));

const plain = gif(frame());

describe('gifWithoutMetadata', () => {
  it('does not change a plain picture', () => expect(gifWithoutMetadata(plain).equals(plain)).toBe(true));

  it.each([
    ['a comment', extension(0xfe, SECRET, SECRET)],
    ['a comment that is a script', extension(0xfe, '*/=alert(1);/*')],
    ['XMP', extension(0xff, 'XMP DataXMP', `<x:xmpmeta>${SECRET}`)],
    ['a colour profile', extension(0xff, 'ICCRGBG1012', SECRET)],
    ['a block of another application', extension(0xff, 'SECRETSAPP1', SECRET)],
    ['a looping application without a count', extension(0xff, 'NETSCAPE2.0', SECRET)],
    ['an application with a name of a wrong length', extension(0xff, 'NETSCAPE2.0 ', '\x01\0\0')],
    ['plain text', extension(0x01, '\0'.repeat(12), SECRET)],
    ['an unknown extension', extension(0x42, SECRET)],
  ])('drops %s', (_what, inserted) => {
    expect(gifWithoutMetadata(gif(inserted, frame())).equals(plain)).toBe(true);
    expect(gifWithoutMetadata(gif(frame(), inserted, inserted)).equals(plain)).toBe(true);
  });

  it.each([
    ['an HTML page', '<html><script>alert(1)</script></html>'],
    ['a script', '=1;alert(1)//'],
    ['a ZIP', `PK\x03\x04${SECRET}PK\x05\x06`],
  ])('drops %s after the end', (_what, tail) => {
    expect(gifWithoutMetadata(Buffer.concat([plain, Buffer.from(tail)])).equals(plain)).toBe(true);
  });

  it.each(['NETSCAPE2.0', 'ANIMEXTS1.0'])('keeps only the loop count of %s', (name) => {
    const told = extension(0xff, name, SECRET, Buffer.of(1, 5, 0), Buffer.of(2, 1, 1, 1, 1), SECRET);
    expect(gifWithoutMetadata(gif(told, frame())).equals(gif(loop(5, name), frame()))).toBe(true);
    expect(gifWithoutMetadata(gif(told, loop(7), frame())).equals(gif(loop(7, name), frame()))).toBe(true);
  });

  it('keeps only the last control block before each frame', () => {
    const cleaned = gifWithoutMetadata(gif(control(8), control(9), frame(), control(9), frame(), control(8)));
    expect(cleaned.equals(gif(control(9), frame(), control(9), frame()))).toBe(true);
  });

  it('keeps the colour table of a frame', () => {
    const local = Buffer.concat([
      Buffer.of(0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0x80),
      Buffer.alloc(6, 'c'),
      frame().subarray(10),
    ]);
    expect(gifWithoutMetadata(gif(local)).equals(gif(local))).toBe(true);
  });

  it.each([
    ['in the block of the end code', [Buffer.concat([ONE_PIXEL, Buffer.from(SECRET)])], [ONE_PIXEL]],
    ['in a block after the end code', [ONE_PIXEL, SECRET], [ONE_PIXEL]],
    ['after blocks of one byte', ['\x44', `\x01${SECRET}`, SECRET], ['\x44', '\x01']],
    ['after the last pixel, without an end code', [Buffer.of(0x04, ...Buffer.from(SECRET))], [ONE_PIXEL]],
    ['without any end code', [Buffer.of(0x04)], [ONE_PIXEL]],
  ])('drops hidden bytes in a frame, %s', (_where, blocks, left) => {
    expect(gifWithoutMetadata(gif(frame(blocks))).equals(gif(frame(left)))).toBe(true);
  });

  it.each([
    ['no trailer', plain.subarray(0, -1)],
    ['a zero before its trailer', gif(frame(), Buffer.of(0))],
    ['zeros in place of its trailer', Buffer.concat([plain.subarray(0, -1), Buffer.alloc(3)])],
    ['an unknown block behind its frames', gif(frame(), Buffer.from(SECRET))],
    ['a comment that is cut', gif(frame(), extension(0xfe, SECRET)).subarray(0, -5)],
  ])('gives a trailer to a file with %s', (_what, bytes) => {
    expect(gifWithoutMetadata(bytes).equals(plain)).toBe(true);
  });

  it.each([9, 11])('refuses codes of %d bits and more, which browsers do not show', (size) => {
    const long = gif(
      Buffer.concat([frame().subarray(0, 10), Buffer.of(size), block(ONE_PIXEL), Buffer.of(0)]),
    );
    expect(() => gifWithoutMetadata(long)).toThrow(ImageLimitError);
  });

  it('drops hidden bytes in a frame without pixels', () => {
    expect(gifWithoutMetadata(gif(frame(), frame([SECRET], 0))).includes(SECRET)).toBe(false);
  });

  it.each([
    ['no bytes', Buffer.alloc(0)],
    ['an unknown version', Buffer.concat([Buffer.from('GIF88a'), plain.subarray(6)])],
    ['zeros before another block', gif(frame(), Buffer.of(0), control(1))],
    ['no picture', gif(control(1))],
    ['a colour table after its end', HEADER.subarray(0, 15)],
    ['a block after its end', plain.subarray(0, -3)],
    ['a frame after its end', gif(frame()).subarray(0, HEADER.length + 6)],
    ['an unknown block', gif(Buffer.from('?'), frame())],
    ['a control block of a wrong length', gif(extension(0xf9, SECRET), frame())],
    ['a control block of two blocks', gif(extension(0xf9, Buffer.of(0, 9, 0, 0), SECRET), frame())],
    ['a comment that is cut, and no frame', gif(extension(0xfe, SECRET)).subarray(0, -5)],
    ['an invalid code size', gif(Buffer.concat([frame().subarray(0, 10), Buffer.of(12, 0)]))],
    ['no pixel', gif(frame([ONE_PIXEL], 0))],
    ['too few codes before the end code', gif(frame([ONE_PIXEL], 2))],
    ['too few codes', gif(frame([Buffer.of(0x04)], 2))],
    ['an invalid code', gif(frame([Buffer.of(0x3c)]))],
  ])('refuses a file with %s', (_what, bytes) => {
    expect(() => gifWithoutMetadata(bytes)).toThrow(MalformedImageError);
  });
});
