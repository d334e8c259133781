import { type BytePieces, lengthOf, rangeOf } from '../storage/byte-pieces.js';
import type { ImageFormat } from './image-format.js';

const MIB = 1024 * 1024;

/**
 * Memory limit for one picture. A picture that needs more is refused. Pictures of 50 megapixels fit, in every format that
 * cameras and phones write. A progressive CMYK JPEG may exceed the limit from 44 megapixels on.
 */
export const MAX_DECODE_BYTES = 400 * MIB;

/** Memory limit of a light picture. A photograph in one scan is light at any size. */
export const LIGHT_DECODE_BYTES = 64 * MIB;

/** Memory for rows, tables and the decoder itself, for every picture. */
const BASE_BYTES = 32 * MIB;

/** Copies of the file in memory: the shared file, the buffer read from it, and the cleaned picture. */
const COPIES = 3;

/** Bytes per pixel, measured with libvips 8.18: the canvas and the frame composed on it. */
const GIF_BYTES_PER_PIXEL = 5;
const WEBP_LOSSLESS_BYTES_PER_PIXEL = 7;
const WEBP_LOSSY_BYTES_PER_PIXEL = 2;

/** Stop after this many segments: a hostile JPEG has a million segments before its frame, and is refused later. */
const MAX_SEGMENTS = 1000;

/** Marker, length, and a frame header of 255 components. Decoders accept at most four components. */
const SEGMENT_START_BYTES = 4 + 6 + 3 * 255;

/** The dimensions of a PNG, GIF or WebP are within these first bytes. */
const HEADER_BYTES = 30;

const SOS = 0xda;
const NOT_A_FRAME = [0xc4, 0xc8, 0xcc];

/**
 * Estimates the memory of the decoder from a picture's header, before decoding. A picture that is decoded row by row takes
 * little memory. A picture in several scans or passes is in memory as a whole. An unreadable header counts as little: a
 * decoding process that uses more memory than estimated is killed.
 *
 * @returns bytes; more than {@link MAX_DECODE_BYTES} when the picture must be refused
 */
export function decodeMemory(pieces: BytePieces, format: ImageFormat): number {
  const pixelBytes =
    format === 'jpeg' ? jpegBytes(pieces) : PIXEL_BYTES[format](bytesAt(pieces, 0, HEADER_BYTES));
  return BASE_BYTES + COPIES * lengthOf(pieces) + pixelBytes;
}

/** Memory for the pixels, from the first bytes of a picture. */
const PIXEL_BYTES: Readonly<Record<Exclude<ImageFormat, 'jpeg'>, (bytes: Buffer) => number>> = {
  png: pngBytes,
  gif: gifBytes,
  webp: webpBytes,
};

/** A copy of `count` bytes; fewer at the end of the file. */
function bytesAt(pieces: BytePieces, at: number, count: number): Buffer {
  return Buffer.concat(rangeOf(pieces, at, at + count));
}

/** A JPEG in several scans: two bytes per sample for the coefficients. In one scan: nothing. */
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

/** The samples of all components of a frame, each with its own sampling factors (T.81 B.2.2, A.1.1). */
function samplesOf(frame: Buffer): number {
  const components = frame[5] ?? 0;
  if (6 + 3 * components > frame.length) return 0;
  const pixels = frame.readUInt16BE(1) * frame.readUInt16BE(3);
  const sampling = Array.from({ length: components }, (_, index) => frame[7 + 3 * index] ?? 0);
  const [widest, highest] = [
    Math.max(...sampling.map((factors) => factors >> 4)),
    Math.max(...sampling.map((factors) => factors & 15)),
  ];
  const shares = sampling.map((factors) => ((factors >> 4) * (factors & 15)) / Math.max(1, widest * highest));
  return pixels * shares.reduce((sum, share) => sum + share, 0);
}

/** An interlaced PNG: all pixels. A palette pixel counts as red, green, blue and transparency. */
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
