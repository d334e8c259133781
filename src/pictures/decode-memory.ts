import { type BytePieces, lengthOf, rangeOf } from '../storage/byte-pieces.js';
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

/** The bytes are in the memory of a decoding process as they were handed over, as they were taken out, and cleaned. */
const COPIES = 3;

/** Bytes for each pixel, measured with libvips 8.18: the canvas, and what is composed on it. */
const GIF_BYTES_PER_PIXEL = 5;
const WEBP_LOSSLESS_BYTES_PER_PIXEL = 7;
const WEBP_LOSSY_BYTES_PER_PIXEL = 2;

/** A hostile JPEG has a million segments before its frame: it is refused later, and not looked through here. */
const MAX_SEGMENTS = 1000;

/** Marker, length, and a frame of 255 components, of which no decoder takes more than four. */
const SEGMENT_START_BYTES = 4 + 6 + 3 * 255;

/** The size of a PNG, GIF or WebP lies in these first bytes. */
const HEADER_BYTES = 30;

const SOS = 0xda;
const NOT_A_FRAME = [0xc4, 0xc8, 0xcc];

/**
 * Estimates from a picture's header how much memory its decoder will hold, before anything is decoded. What can be read
 * row by row takes little; a picture in several scans or passes is in memory whole. A header that can't be read counts as
 * little: a decoder that takes more than was estimated is ended.
 *
 * @returns bytes; more than {@link MAX_DECODE_BYTES} where that is too much
 */
export function decodeMemory(pieces: BytePieces, format: ImageFormat): number {
  const pixelBytes =
    format === 'jpeg' ? jpegBytes(pieces) : PIXEL_BYTES[format](bytesAt(pieces, 0, HEADER_BYTES));
  return BASE_BYTES + COPIES * lengthOf(pieces) + pixelBytes;
}

/** By the first bytes of a picture. */
const PIXEL_BYTES: Readonly<Record<Exclude<ImageFormat, 'jpeg'>, (bytes: Buffer) => number>> = {
  png: pngBytes,
  gif: gifBytes,
  webp: webpBytes,
};

/** A copy of some of the bytes; fewer, where they end. */
function bytesAt(pieces: BytePieces, at: number, count: number): Buffer {
  return Buffer.concat(rangeOf(pieces, at, at + count));
}

/** A JPEG in several scans: two bytes for the coefficient of each sample. */
function jpegBytes(pieces: BytePieces): number {
  let frame: { readonly data: Buffer; readonly isProgressive: boolean } | undefined;
  let at = 2;
  for (let segments = 0; segments < MAX_SEGMENTS; segments += 1) {
    const start = bytesAt(pieces, at, SEGMENT_START_BYTES);
    if (start.length < 5) break;
    const marker = start[1] ?? 0;
    if (start[0] !== 0xff || marker === 0xff) {
      at += 1;
      continue;
    }
    const data = start.subarray(4);
    if (marker === SOS) {
      const isInOneScan = !frame?.isProgressive && data[0] === frame?.data[5];
      return frame && !isInOneScan ? 2 * samplesOf(frame.data) : 0;
    }
    if (marker >= 0xc0 && marker <= 0xcf && !NOT_A_FRAME.includes(marker))
      frame = { data, isProgressive: marker % 4 === 2 };
    at += 2 + start.readUInt16BE(2);
  }
  return 0;
}

/** Over all components of a frame, each with its own sampling (T.81 B.2.2, A.1.1). */
function samplesOf(frame: Buffer): number {
  const components = frame[5] ?? 0;
  if (6 + 3 * components > frame.length) return 0;
  const pixels = frame.readUInt16BE(1) * frame.readUInt16BE(3);
  const sampling = Array.from({ length: components }, (_, index) => frame[7 + 3 * index] ?? 0);
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
