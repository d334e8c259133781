import type { ImageFormat } from './image-format.js';

const MIB = 1024 * 1024;

/**
 * The limit of memory for one picture: a picture that takes more is refused. Fifty megapixels fit in every form that cameras
 * and phones write. A progressive JPEG of four colours may be too large from 44 megapixels on.
 */
export const MAX_DECODE_BYTES = 400 * MIB;

/** The limit of a light picture. A photograph in one scan is light, whatever its size. */
export const LIGHT_DECODE_BYTES = 64 * MIB;

/** Memory for rows, tables, and the decoder's own needs, whatever the picture. */
const BASE_BYTES = 32 * MIB;

/** The bytes are in memory as they arrived, joined, and as they are stored. */
const COPIES = 3;

/** Bytes for each pixel, measured with libvips 8.18: the canvas, and what is composed on it. */
const GIF_BYTES_PER_PIXEL = 5;
const WEBP_LOSSLESS_BYTES_PER_PIXEL = 7;
const WEBP_LOSSY_BYTES_PER_PIXEL = 2;

/** A hostile JPEG has a million segments before its frame: it is refused later, and not looked through here. */
const MAX_SEGMENTS = 1000;

const SOS = 0xda;
const NOT_A_FRAME = [0xc4, 0xc8, 0xcc];

/**
 * Estimates from a picture's header how much memory its decoder will hold, before anything is decoded. What can be read
 * row by row takes little; a picture in several scans or passes is in memory whole. A header that can't be read counts as
 * little: a decoder that takes more than was estimated is ended.
 *
 * @returns bytes; more than {@link MAX_DECODE_BYTES} where that is too much
 */
export function decodeMemory(bytes: Buffer, format: ImageFormat): number {
  return BASE_BYTES + COPIES * bytes.length + PIXEL_BYTES[format](bytes);
}

const PIXEL_BYTES: Readonly<Record<ImageFormat, (bytes: Buffer) => number>> = {
  jpeg: jpegBytes,
  png: pngBytes,
  gif: gifBytes,
  webp: webpBytes,
};

/** A JPEG in several scans: two bytes for the coefficient of each sample. */
function jpegBytes(bytes: Buffer): number {
  let frame: { readonly data: number; readonly isProgressive: boolean } | undefined;
  let at = 2;
  for (let segments = 0; segments < MAX_SEGMENTS && at + 5 <= bytes.length; segments += 1) {
    const marker = bytes[at + 1] ?? 0;
    if (bytes[at] !== 0xff || marker === 0xff) {
      at += 1;
      continue;
    }
    const data = at + 4;
    if (marker === SOS) {
      const isInOneScan = !frame?.isProgressive && bytes[data] === bytes[(frame?.data ?? 0) + 5];
      return frame && !isInOneScan ? 2 * samplesOf(bytes, frame.data) : 0;
    }
    if (marker >= 0xc0 && marker <= 0xcf && !NOT_A_FRAME.includes(marker))
      frame = { data, isProgressive: marker % 4 === 2 };
    at += 2 + bytes.readUInt16BE(at + 2);
  }
  return 0;
}

/** Over all components, each with its own sampling (T.81 B.2.2, A.1.1). */
function samplesOf(bytes: Buffer, frame: number): number {
  const components = bytes[frame + 5] ?? 0;
  if (frame + 6 + 3 * components > bytes.length) return 0;
  const pixels = bytes.readUInt16BE(frame + 1) * bytes.readUInt16BE(frame + 3);
  const sampling = Array.from({ length: components }, (_, index) => bytes[frame + 7 + 3 * index] ?? 0);
  const [widest, highest] = [
    Math.max(...sampling.map((it) => it >> 4)),
    Math.max(...sampling.map((it) => it & 15)),
  ];
  const shares = sampling.map((it) => ((it >> 4) * (it & 15)) / Math.max(1, widest * highest));
  return pixels * shares.reduce((sum, share) => sum + share, 0);
}

/** An interlaced PNG: all pixels. A pixel of a palette counts as its colours and transparency. */
function pngBytes(bytes: Buffer): number {
  if (bytes.length < 29 || bytes[28] !== 1) return 0;
  const samples = [2, 0, 4, 4, 2, 0, 4][bytes[25] ?? 0] ?? 0;
  return bytes.readUInt32BE(16) * bytes.readUInt32BE(20) * samples * (bytes[24] === 16 ? 2 : 1);
}

/** A GIF: the canvas. */
function gifBytes(bytes: Buffer): number {
  return bytes.length < 10 ? 0 : bytes.readUInt16LE(6) * bytes.readUInt16LE(8) * GIF_BYTES_PER_PIXEL;
}

/** A WebP: the picture, or the canvas of an animation (RFC 9649, 2.5 to 2.7). */
function webpBytes(bytes: Buffer): number {
  if (bytes.length < 30) return 0;
  const type = bytes.toString('latin1', 12, 16);
  if (type === 'VP8 ')
    return (bytes.readUInt16LE(26) & 0x3fff) * (bytes.readUInt16LE(28) & 0x3fff) * WEBP_LOSSY_BYTES_PER_PIXEL;
  if (type === 'VP8L') {
    const size = bytes.readUInt32LE(21);
    return ((size & 0x3fff) + 1) * (((size >> 14) & 0x3fff) + 1) * WEBP_LOSSLESS_BYTES_PER_PIXEL;
  }
  return (bytes.readUIntLE(24, 3) + 1) * (bytes.readUIntLE(27, 3) + 1) * WEBP_LOSSLESS_BYTES_PER_PIXEL;
}
