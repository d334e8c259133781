import { describe, expect, it } from '@jest/globals';
import { orientationExif, readOrientation } from './exif-orientation.js';

type Entry = readonly [tag: number, type: number, count: number, value: number];

/** EXIF as cameras write it: a directory of tags in either byte order. */
function exif(order: 'II' | 'MM', entries: readonly Entry[]): Buffer {
  const bytes = Buffer.alloc(14 + entries.length * 12);
  const uint16 = (value: number, at: number): number =>
    order === 'II' ? bytes.writeUInt16LE(value, at) : bytes.writeUInt16BE(value, at);
  const uint32 = (value: number, at: number): number =>
    order === 'II' ? bytes.writeUInt32LE(value, at) : bytes.writeUInt32BE(value, at);
  bytes.write(order);
  uint16(42, 2);
  uint32(8, 4);
  uint16(entries.length, 8);
  entries.forEach(([tag, type, count, value], index) => {
    const at = 10 + index * 12;
    uint16(tag, at);
    uint16(type, at + 2);
    uint32(count, at + 4);
    uint16(value, at + 8);
  });
  return bytes;
}

describe('readOrientation', () => {
  it.each(['II', 'MM'] as const)(
    'reads all eight orientations in byte order %s, among other tags',
    (order) => {
      for (let orientation = 1; orientation <= 8; orientation += 1) {
        const bytes = exif(order, [
          [0x0100, 3, 1, 640],
          [0x0112, 3, 1, orientation],
          [0x8825, 4, 1, 26],
        ]);
        expect(readOrientation(bytes)).toBe(orientation);
      }
    },
  );

  it.each([
    ['is empty', Buffer.alloc(0)],
    ['has no byte order', Buffer.from('XX*\0\0\0\0\x08')],
    ['is not TIFF', Buffer.from('II+\0\x08\0\0\0\0\0')],
    ['has its directory after its end', Buffer.from('II*\0\xff\xff\xff\xff', 'latin1')],
    ['states more tags than it has', Buffer.from('II*\0\x08\0\0\0\xff\xff\0\0', 'latin1')],
    ['is truncated within the tag', exif('MM', [[0x0112, 3, 1, 6]]).subarray(0, 20)],
    ['has no orientation', exif('II', [[0x0100, 3, 1, 6]])],
    ['has the orientation as text', exif('II', [[0x0112, 2, 1, 6]])],
    ['has two orientations', exif('II', [[0x0112, 3, 2, 6]])],
    ['has orientation 0', exif('II', [[0x0112, 3, 1, 0]])],
    ['has orientation 9', exif('MM', [[0x0112, 3, 1, 9]])],
  ])('returns 1 for EXIF that %s', (_what, bytes) => expect(readOrientation(bytes)).toBe(1));

  it('reads every orientation that orientationExif writes', () => {
    for (let orientation = 1; orientation <= 8; orientation += 1) {
      expect(orientationExif(orientation)).toHaveLength(26);
      expect(readOrientation(orientationExif(orientation))).toBe(orientation);
    }
  });
});
