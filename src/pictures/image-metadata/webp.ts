import { AnimationSize } from './animation-size.js';
import { plainProfile } from './colour-profile.js';
import { orientationExif, readOrientation, UPRIGHT } from './exif-orientation.js';
import { ImageLimitError, TOO_COMPLEX } from './image-limit-error.js';
import { IMAGE_LIMITS } from './image-limits.js';
import { type CleanedImage, KeptBytes } from './kept-bytes.js';
import { MalformedImageError } from './malformed-image-error.js';
import { PartCount } from './part-count.js';
import { prefixCodeGroups } from './webp-prefix-codes.js';

/** Flags in VP8X. */
const HAS_PROFILE = 0x20;
const HAS_ALPHA = 0x10;
const HAS_EXIF = 0x08;
const IS_ANIMATION = 0x02;

const RIFF_HEADER_LENGTH = 12;
const CHUNK_HEADER_LENGTH = 8;
/** Header of an animation frame, before its chunks. */
const FRAME_HEADER_LENGTH = 16;

type Chunk = {
  readonly type: string;
  readonly start: number;
  readonly data: number;
  readonly dataEnd: number;
  /** After the padding. */
  readonly end: number;
};

/**
 * Keeps the picture with its transparency, or the frames of an animation, and the colour profile of a WebP (RFC 9649), the
 * profile reduced to what colours need (`plainProfile`).
 * Dropped: XMP, unknown chunks, unused bits and padding, and all bytes after the length in the RIFF header. Chunks without
 * their flag in VP8X are dropped too, because decoders ignore them. Not covered: bytes after the end of the image data
 * inside a VP8, VP8L or ALPH chunk, and the padding of the first two. Finding these bytes takes a decoder.
 */
export function webpWithoutMetadata(bytes: Buffer): CleanedImage {
  if (bytes.length < RIFF_HEADER_LENGTH || !/^RIFF.{4}WEBP$/s.test(bytes.toString('latin1', 0, 12))) {
    throw new MalformedImageError('The WebP has no header.');
  }
  const end = CHUNK_HEADER_LENGTH + bytes.readUInt32LE(4);
  if (end > bytes.length) throw new MalformedImageError('The WebP has no end.');
  const kept = new KeptBytes(bytes);
  const limits = new WebpLimits(bytes);
  const riff = kept.reserve(RIFF_HEADER_LENGTH);
  bytes.copy(riff, 0, 0, RIFF_HEADER_LENGTH);

  const first = chunkAt(bytes, RIFF_HEADER_LENGTH, end);
  if (first.type === 'VP8X') keepExtended(bytes, first, end, kept, limits);
  else if (isImage(first)) {
    limits.addImage(first);
    keepChunk(bytes, first, kept);
  } else throw new MalformedImageError('The WebP has no picture.');

  riff.writeUInt32LE(kept.length - CHUNK_HEADER_LENGTH, 4);
  return kept.finish();
}

function keepExtended(bytes: Buffer, vp8x: Chunk, end: number, kept: KeptBytes, limits: WebpLimits): void {
  if (vp8x.dataEnd - vp8x.data < 10) throw new MalformedImageError('A chunk of the WebP has a wrong length.');
  const announced = bytes[vp8x.data] ?? 0;
  const isAnimation = (announced & IS_ANIMATION) !== 0;
  let flags = announced & (HAS_ALPHA | IS_ANIMATION);
  const features = kept.reserve(CHUNK_HEADER_LENGTH + 10);
  bytes.copy(features, 0, vp8x.start, vp8x.data + 10);
  features.writeUInt32LE(10, 4);
  features.fill(0, 9, 12); // reserved

  const animation = new AnimationSize({
    width: bytes.readUIntLE(vp8x.data + 4, 3) + 1,
    height: bytes.readUIntLE(vp8x.data + 7, 3) + 1,
  });
  const once = new Set<string>();
  let orientation: number | undefined;
  for (let at = vp8x.end; at < end;) {
    const chunk = chunkAt(bytes, at, end);
    limits.parts.add();
    at = chunk.end;
    if (chunk.type === 'ICCP') {
      if ((announced & HAS_PROFILE) === 0 || once.has('ICCP') || once.has('picture')) continue;
      once.add('ICCP');
      const profile = plainProfile(bytes.subarray(chunk.data, chunk.dataEnd));
      if (!profile) continue;
      flags |= HAS_PROFILE;
      kept.keep(chunk.start, chunk.data);
      kept.write(profile);
      if (profile.length % 2 === 1) kept.write(Buffer.of(0));
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
      once.add('picture');
      keepFrame(bytes, chunk, kept, { limits, animation });
    } else if (!isAnimation && !once.has('picture')) {
      keepImage(bytes, chunk, kept, { once, limits });
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

function keepFrame(
  bytes: Buffer,
  frame: Chunk,
  kept: KeptBytes,
  { limits, animation }: { readonly limits: WebpLimits; readonly animation: AnimationSize },
): void {
  const chunks = frame.data + FRAME_HEADER_LENGTH;
  if (chunks > frame.dataEnd) throw new MalformedImageError('A chunk of the WebP has a wrong length.');
  animation.addFrame({
    left: bytes.readUIntLE(frame.data, 3) * 2,
    top: bytes.readUIntLE(frame.data + 3, 3) * 2,
    width: bytes.readUIntLE(frame.data + 6, 3) + 1,
    height: bytes.readUIntLE(frame.data + 9, 3) + 1,
  });
  const header = kept.reserve(CHUNK_HEADER_LENGTH + FRAME_HEADER_LENGTH);
  bytes.copy(header, 0, frame.start, chunks);
  header[header.length - 1] = (header[header.length - 1] ?? 0) & 0x03; // blending and disposal; the rest is reserved
  const from = kept.length;
  const once = new Set<string>();
  for (let at = chunks; at < frame.dataEnd && !once.has('picture');) {
    const chunk = chunkAt(bytes, at, frame.dataEnd);
    limits.parts.add();
    at = chunk.end;
    keepImage(bytes, chunk, kept, { once, limits });
  }
  if (!once.has('picture')) throw new MalformedImageError('A frame of the WebP has no picture.');
  header.writeUInt32LE(FRAME_HEADER_LENGTH + kept.length - from, 4);
}

/** Keeps the chunk of the picture, or the transparency chunk before it. */
function keepImage(
  bytes: Buffer,
  chunk: Chunk,
  kept: KeptBytes,
  { once, limits }: { readonly once: Set<string>; readonly limits: WebpLimits },
): void {
  if (isImage(chunk)) {
    if (chunk.type === 'VP8L' && once.has('ALPH')) {
      throw new MalformedImageError('The WebP has transparency twice.');
    }
    once.add('picture');
    limits.addImage(chunk);
    keepChunk(bytes, chunk, kept);
  } else if (chunk.type === 'ALPH' && !once.has('ALPH')) {
    once.add('ALPH');
    limits.addAlpha(chunk);
    keepChunk(bytes, chunk, kept);
  }
}

/** Counts the cost of reading the file, beyond the cost of its bytes and pixels. */
class WebpLimits {
  readonly parts: PartCount;
  readonly #bytes: Buffer;
  #groups = 0;
  #alpha: Buffer | undefined;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.parts = new PartCount(bytes.length);
  }

  /** Adds the transparency of the next picture. */
  addAlpha({ data, dataEnd }: Chunk): void {
    const isLossless = ((this.#bytes[data] ?? 0) & 0x03) === 1;
    this.#alpha = isLossless ? this.#bytes.subarray(data + 1, dataEnd) : undefined;
  }

  /** @throws ImageLimitError when the pictures so far have too many groups of prefix codes */
  addImage({ type, data, dataEnd }: Chunk): void {
    const image = this.#bytes.subarray(data, dataEnd);
    if (type === 'VP8L') this.#groups += prefixCodeGroups(image);
    else if (this.#alpha && image.length >= 10) {
      // The size in the VP8 header (RFC 6386 §9.1): 14 bits each. The upper two bits are the scaling.
      const [width, height] = [image.readUInt16LE(6) & 0x3fff, image.readUInt16LE(8) & 0x3fff];
      this.#groups += prefixCodeGroups(this.#alpha, { width, height });
    }
    this.#alpha = undefined;
    const limit = IMAGE_LIMITS.webpPrefixCodeGroups;
    if (this.#groups > limit) {
      throw new ImageLimitError(TOO_COMPLEX, `The WebP has more than ${limit} groups of prefix codes.`);
    }
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
  // Some encoders omit the padding of the last chunk.
  const end = Math.min(dataEnd + (length % 2), limit);
  return { type: bytes.toString('latin1', start, start + 4), start, data, dataEnd, end };
}

function keepChunk(bytes: Buffer, chunk: Chunk, kept: KeptBytes): void {
  const { start, data, dataEnd, end } = chunk;
  const isPadded = (dataEnd - data) % 2 === 1;
  // Decoders take the padding of image data for data: another byte could change pixels.
  if (isPadded && end > dataEnd && (bytes[dataEnd] === 0 || isImage(chunk))) {
    kept.keep(start, end);
    return;
  }
  kept.keep(start, dataEnd);
  if (isPadded) kept.write(Buffer.of(0));
}

/** RFC 9649 requires bare TIFF. Many encoders add the JPEG prefix `Exif\0\0`, and decoders accept both. */
function tiffOf(bytes: Buffer, { data, dataEnd }: Chunk): Buffer {
  const hasPrefix = bytes.toString('latin1', data, data + 6) === 'Exif\0\0';
  return bytes.subarray(hasPrefix ? data + 6 : data, dataEnd);
}
