import { orientationExif, readOrientation, UPRIGHT } from './exif-orientation.js';
import { MAX_FRAMES, TooManyFramesError } from './frame-limit.js';
import { type CleanedImage, KeptBytes } from './kept-bytes.js';
import { MalformedImageError } from './malformed-image-error.js';

/** Of the flags in VP8X. */
const HAS_PROFILE = 0x20;
const HAS_ALPHA = 0x10;
const HAS_EXIF = 0x08;
const IS_ANIMATION = 0x02;

const RIFF_HEADER_LENGTH = 12;
const CHUNK_HEADER_LENGTH = 8;
/** What a frame of an animation states before its chunks. */
const FRAME_HEADER_LENGTH = 16;

type Chunk = {
  readonly type: string;
  readonly start: number;
  readonly data: number;
  readonly dataEnd: number;
  /** Behind its padding. */
  readonly end: number;
};

/**
 * Keeps of a WebP (RFC 9649) the picture with its transparency, or the frames of an animation, and the colour profile.
 * XMP, unknown chunks, unused bits and padding, and all that follows the length in the RIFF header are dropped. A chunk that
 * VP8X does not announce is ignored by decoders: dropped here. Bytes behind the end of the data inside a VP8, VP8L or
 * ALPH chunk stay: finding them takes a decoder.
 */
export function webpWithoutMetadata(bytes: Buffer): CleanedImage {
  if (bytes.length < RIFF_HEADER_LENGTH || !/^RIFF.{4}WEBP$/s.test(bytes.toString('latin1', 0, 12))) {
    throw new MalformedImageError('The WebP has no header.');
  }
  const end = CHUNK_HEADER_LENGTH + bytes.readUInt32LE(4);
  if (end > bytes.length) throw new MalformedImageError('The WebP has no end.');
  const kept = new KeptBytes(bytes);
  const riff = kept.reserve(RIFF_HEADER_LENGTH);
  bytes.copy(riff, 0, 0, RIFF_HEADER_LENGTH);

  const first = chunkAt(bytes, RIFF_HEADER_LENGTH, end);
  if (first.type === 'VP8X') keepExtended(bytes, first, end, kept);
  else if (isImage(first)) keepChunk(bytes, first, kept);
  else throw new MalformedImageError('The WebP has no picture.');

  riff.writeUInt32LE(kept.length - CHUNK_HEADER_LENGTH, 4);
  return kept.finish();
}

function keepExtended(bytes: Buffer, vp8x: Chunk, end: number, kept: KeptBytes): void {
  if (vp8x.dataEnd - vp8x.data < 10) throw new MalformedImageError('A chunk of the WebP has a wrong length.');
  const announced = bytes[vp8x.data] ?? 0;
  const isAnimation = (announced & IS_ANIMATION) !== 0;
  let flags = announced & (HAS_ALPHA | IS_ANIMATION);
  const features = kept.reserve(CHUNK_HEADER_LENGTH + 10);
  bytes.copy(features, 0, vp8x.start, vp8x.data + 10);
  features.writeUInt32LE(10, 4);
  features.fill(0, 9, 12); // reserved

  const once = new Set<string>();
  let frames = 0;
  let orientation: number | undefined;
  for (let at = vp8x.end; at < end;) {
    const chunk = chunkAt(bytes, at, end);
    at = chunk.end;
    if (chunk.type === 'ICCP') {
      if ((announced & HAS_PROFILE) === 0 || once.has('ICCP') || once.has('picture')) continue;
      once.add('ICCP');
      flags |= HAS_PROFILE;
      keepChunk(bytes, chunk, kept);
    } else if (chunk.type === 'EXIF') {
      if ((announced & HAS_EXIF) !== 0) orientation ??= readOrientation(tiffOf(bytes, chunk));
    } else if (isAnimation && chunk.type === 'ANIM') {
      if (once.has('ANIM')) continue;
      if (chunk.dataEnd - chunk.data !== 6)
        throw new MalformedImageError('A chunk of the WebP has a wrong length.');
      once.add('ANIM');
      keepChunk(bytes, chunk, kept);
    } else if (isAnimation && chunk.type === 'ANMF') {
      if (!once.has('ANIM')) throw new MalformedImageError('The WebP has a frame before its animation.');
      frames += 1;
      if (frames > MAX_FRAMES) throw new TooManyFramesError('The WebP has too many frames.');
      once.add('picture');
      keepFrame(bytes, chunk, kept);
    } else if (!isAnimation && !once.has('picture')) {
      keepImage(bytes, chunk, kept, once);
    }
  }
  if (!once.has('picture')) throw new MalformedImageError('The WebP has no picture.');
  if (orientation !== undefined && orientation !== UPRIGHT) {
    const exif = orientationExif(orientation);
    kept.write(Buffer.from([...Buffer.from('EXIF'), exif.length, 0, 0, 0]));
    kept.write(exif);
    flags |= HAS_EXIF;
  }
  features[CHUNK_HEADER_LENGTH] = flags;
}

function keepFrame(bytes: Buffer, frame: Chunk, kept: KeptBytes): void {
  const chunks = frame.data + FRAME_HEADER_LENGTH;
  if (chunks > frame.dataEnd) throw new MalformedImageError('A chunk of the WebP has a wrong length.');
  const header = kept.reserve(CHUNK_HEADER_LENGTH + FRAME_HEADER_LENGTH);
  bytes.copy(header, 0, frame.start, chunks);
  header[header.length - 1] = (header[header.length - 1] ?? 0) & 0x03; // blending and disposal; the rest is reserved
  const from = kept.length;
  const once = new Set<string>();
  for (let at = chunks; at < frame.dataEnd && !once.has('picture');) {
    const chunk = chunkAt(bytes, at, frame.dataEnd);
    at = chunk.end;
    keepImage(bytes, chunk, kept, once);
  }
  if (!once.has('picture')) throw new MalformedImageError('A frame of the WebP has no picture.');
  header.writeUInt32LE(FRAME_HEADER_LENGTH + kept.length - from, 4);
}

/** Keeps the picture itself, and the transparency that may precede it. */
function keepImage(bytes: Buffer, chunk: Chunk, kept: KeptBytes, once: Set<string>): void {
  if (isImage(chunk)) {
    if (chunk.type === 'VP8L' && once.has('ALPH')) {
      throw new MalformedImageError('The WebP has transparency twice.');
    }
    once.add('picture');
    keepChunk(bytes, chunk, kept);
  } else if (chunk.type === 'ALPH' && !once.has('ALPH')) {
    once.add('ALPH');
    keepChunk(bytes, chunk, kept);
  }
}

function isImage(chunk: Chunk): boolean {
  return chunk.type === 'VP8 ' || chunk.type === 'VP8L';
}

function chunkAt(bytes: Buffer, start: number, limit: number): Chunk {
  const data = start + CHUNK_HEADER_LENGTH;
  if (data > limit) throw new MalformedImageError('A chunk of the WebP runs over its end.');
  const length = bytes.readUInt32LE(start + 4);
  const dataEnd = data + length;
  if (dataEnd > limit) throw new MalformedImageError('A chunk of the WebP runs over its end.');
  // Some writers leave the padding of the last chunk out.
  const end = Math.min(dataEnd + (length % 2), limit);
  return { type: bytes.toString('latin1', start, start + 4), start, data, dataEnd, end };
}

function keepChunk(bytes: Buffer, { start, dataEnd, data, end }: Chunk, kept: KeptBytes): void {
  const isPadded = (dataEnd - data) % 2 === 1;
  if (isPadded && end > dataEnd && bytes[dataEnd] === 0) {
    kept.keep(start, end);
    return;
  }
  kept.keep(start, dataEnd);
  if (isPadded) kept.write(Buffer.of(0));
}

/** RFC 9649 wants the bare TIFF; many writers put JPEG's `Exif\0\0` before it, and readers accept both. */
function tiffOf(bytes: Buffer, { data, dataEnd }: Chunk): Buffer {
  const hasPrefix = bytes.toString('latin1', data, data + 6) === 'Exif\0\0';
  return bytes.subarray(hasPrefix ? data + 6 : data, dataEnd);
}
