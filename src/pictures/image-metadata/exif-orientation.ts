/** No rotation: the orientation of a picture without the tag. */
export const UPRIGHT = 1;

const ORIENTATION_TAG = 0x0112;
const SHORT = 3;

/**
 * Reads the orientation from EXIF: a TIFF header and the tags of the first directory (Exif 2.32 §4.5, TIFF 6.0 §2).
 *
 * @param tiff begins with the byte order
 * @returns 1 to 8; 1 when the tag is missing or EXIF can't be read, as in viewers
 */
export function readOrientation(tiff: Buffer): number {
  if (tiff.length < 8) return UPRIGHT;
  const order = tiff.toString('latin1', 0, 2);
  if (order !== 'II' && order !== 'MM') return UPRIGHT;
  const uint16 = (at: number): number => (order === 'II' ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at));
  const uint32 = (at: number): number => (order === 'II' ? tiff.readUInt32LE(at) : tiff.readUInt32BE(at));

  const directory = uint32(4);
  if (uint16(2) !== 42 || directory + 2 > tiff.length) return UPRIGHT;
  const first = directory + 2;
  const end = Math.min(first + uint16(directory) * 12, tiff.length - 11);
  for (let entry = first; entry < end; entry += 12) {
    if (uint16(entry) !== ORIENTATION_TAG) continue;
    const value = uint16(entry + 8);
    const valid = uint16(entry + 2) === SHORT && uint32(entry + 4) === 1 && value >= 1 && value <= 8;
    return valid ? value : UPRIGHT;
  }
  return UPRIGHT;
}

/** EXIF with only the orientation tag: 26 bytes, without the prefix `Exif\0\0` of a JPEG. */
export function orientationExif(orientation: number): Buffer {
  return Buffer.from([
    ...[0x4d, 0x4d, 0, 42, 0, 0, 0, 8], // MM, 42, the directory follows
    ...[0, 1], // one tag
    ...[ORIENTATION_TAG >> 8, ORIENTATION_TAG & 0xff, 0, SHORT, 0, 0, 0, 1, 0, orientation, 0, 0],
    ...[0, 0, 0, 0], // no further directory
  ]);
}
