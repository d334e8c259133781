import { constants, crc32, deflateSync, inflateRawSync, inflateSync } from 'node:zlib';
import { AnimationSize, type Area } from './animation-size.js';
import { plainProfile } from './colour-profile.js';
import { orientationExif, readOrientation, UPRIGHT } from './exif-orientation.js';
import { ANIMATION_TOO_LARGE, FOR_APPLE_ONLY, ImageLimitError, TOO_COMPLEX } from './image-limit-error.js';
import { IMAGE_LIMITS } from './image-limits.js';
import { type CleanedImage, KeptBytes } from './kept-bytes.js';
import { MalformedImageError } from './malformed-image-error.js';
import { PartCount } from './part-count.js';

const SIGNATURE = '\x89PNG\r\n\x1a\n';
const PALETTE = 3;
const IMAGE_DATA = ['IDAT', 'fdAT'];

/**
 * Image data of at most this decoded size is decompressed to find the end of the compressed data: 16 megapixels of four
 * bytes. Larger data would take too much memory.
 */
const MAX_DECODED_LENGTH = 64 * 1024 * 1024;

/** How much longer a colour profile may be when it is compressed anew. Encoders differ by some percent. */
const MAX_PROFILE_GROWTH = 64 * 1024;

/** Kept ancillary chunks and their valid data lengths. Some decoders fail at other lengths, so these chunks are dropped. */
const ANCILLARY_LENGTHS: ReadonlyMap<string, number> = new Map([
  ['gAMA', 4],
  ['cHRM', 32],
  ['sRGB', 1],
  ['cICP', 4],
  ['mDCV', 24],
  ['cLLI', 8],
  ['pHYs', 9],
]);

/** The largest values of how a frame is disposed of and blended. */
const [MAX_DISPOSAL, MAX_BLENDING] = [2, 1];

/** Of each colour type, the data lengths of significant bits and of the background. */
const SIGNIFICANT_BITS = [1, 0, 3, 3, 2, 0, 4];
const BACKGROUND = [2, 0, 6, 1, 2, 0, 6];

const IEND = newChunk('IEND', Buffer.alloc(0));

type Chunk = {
  readonly type: string;
  readonly start: number;
  readonly data: number;
  readonly dataEnd: number;
  /** After the CRC. */
  readonly end: number;
};

/**
 * Keeps the picture, palette, transparency, colour and density chunks, and animation frames of a PNG (PNG third edition,
 * W3C). Dropped: text, time, all other chunks, and all bytes after IEND. Of a chunk that may occur once, the first valid
 * chunk in a valid position is kept. The colour profile gets a neutral name, and is reduced to what colours
 * need (`plainProfile`).
 *
 * A file without a whole IEND gets one, when all announced frames are there: also a file whose last chunk is cut. Frames
 * behind the first are decompressed, as decoders here read only the first. They must be numbered in order and lie on the
 * canvas: browsers show nothing otherwise.
 *
 * Bytes after the end of the compressed data inside IDAT are cut when the decoded picture has at most 64 MiB. Not covered:
 * such bytes in larger pictures and in later frames, extra rows inside the compressed data, and unused palette colours.
 */
export function pngWithoutMetadata(bytes: Buffer): CleanedImage {
  if (bytes.toString('latin1', 0, 8) !== SIGNATURE)
    throw new MalformedImageError('The PNG has no signature.');
  const header = chunkAt(bytes, 8);
  if (header.type === 'CgBI') throw new ImageLimitError(FOR_APPLE_ONLY, 'The PNG has a CgBI chunk.');
  if (header.type !== 'IHDR' || header.dataEnd - header.data !== 13) {
    throw new MalformedImageError('The PNG has no header.');
  }
  expectCrc(bytes, header);
  expectInterlacingLimit(bytes, header);
  const kept = new KeptBytes(bytes);
  kept.keep(0, header.end);
  const colourType = bytes[header.data + 9] ?? 0;
  const parts = new PartCount(bytes.length);
  const canvas = { width: bytes.readUInt32BE(header.data), height: bytes.readUInt32BE(header.data + 4) };
  const animation = new AnimationSize(canvas);
  const once = new Set<string>();
  let paletteEntries = 0;
  let frames = 0;
  let framesLeft = 0;
  /** The number of the next chunk of a frame. */
  let sequence = 0;
  let frame: Frame | undefined;
  let image: { readonly start: number; readonly end: number } | undefined;
  let previousType = header.type;

  for (let at = header.end; ;) {
    // Only behind the picture: whether the picture itself is whole is for the decoder to find.
    const isEnd = image !== undefined && framesLeft <= 0 && isEndOrCut(bytes, at);
    const chunk = isEnd ? { type: 'IEND', start: at, data: at, dataEnd: at, end: at } : chunkAt(bytes, at);
    const { type, start, data, dataEnd, end } = chunk;
    const length = dataEnd - data;
    parts.add();
    at = end;
    if (previousType === 'IDAT' && type !== 'IDAT' && image) keepImage(bytes, image, header, kept);
    const isFirst = !once.has(type);
    const isBeforeImage = image === undefined;

    if (type === 'IDAT') {
      // Decoders take only the data up to the first other chunk.
      if (image && previousType !== 'IDAT') continue;
      if (colourType === PALETTE && paletteEntries === 0)
        throw new MalformedImageError('The PNG has no palette.');
      expectCrc(bytes, chunk);
      image = { start: image?.start ?? start, end };
    } else if (type === 'IEND') {
      if (framesLeft > 0) throw new MalformedImageError('The PNG has fewer frames than it announces.');
      if (frame) expectWhole(bytes, header, frame);
      break;
    } else if (type === 'PLTE') {
      if (isFirst && isBeforeImage && length > 0 && length <= 768 && length % 3 === 0) {
        expectCrc(bytes, chunk);
        once.add(type);
        paletteEntries = length / 3;
        kept.keep(start, end);
      } else if (colourType === PALETTE && isBeforeImage) {
        // Elsewhere decoders skip it.
        throw new MalformedImageError('The PNG has a wrong palette.');
      }
    } else if (type === 'tRNS') {
      if (
        isFirst &&
        isBeforeImage &&
        isTransparency(length, colourType, paletteEntries) &&
        hasCrc(bytes, chunk)
      ) {
        once.add(type);
        kept.keep(start, end);
      }
    } else if (type === 'iCCP') {
      const profile = isFirst && isBeforeImage && hasCrc(bytes, chunk) ? profileOf(bytes, chunk) : undefined;
      once.add(type); // even if invalid: decompressing many profiles could take very long
      if (profile) {
        // The name is free text; libvips writes "icc". The second zero byte means deflate.
        kept.write(newChunk(type, Buffer.concat([Buffer.from('icc\0\0'), profile])));
      }
    } else if (type === 'eXIf') {
      if (isFirst && hasCrc(bytes, chunk)) {
        once.add(type);
        const orientation = readOrientation(bytes.subarray(data, dataEnd));
        if (orientation !== UPRIGHT) kept.write(newChunk(type, orientationExif(orientation)));
      }
    } else if (type === 'acTL') {
      if (isFirst && isBeforeImage && length === 8) {
        expectCrc(bytes, chunk);
        once.add(type);
        frames = bytes.readUInt32BE(data);
        framesLeft = frames;
        kept.keep(start, end);
      }
    } else if (type === 'fcTL') {
      framesLeft -= 1;
      if (framesLeft >= 0) {
        if (length !== 26) throw new MalformedImageError('A frame of the PNG has a wrong length.');
        expectCrc(bytes, chunk);
        if (frame) expectWhole(bytes, header, frame);
        expectNumber(bytes, chunk, sequence);
        sequence += 1;
        const [width, height] = [bytes.readUInt32BE(data + 4), bytes.readUInt32BE(data + 8)];
        const area = {
          width,
          height,
          left: bytes.readUInt32BE(data + 12),
          top: bytes.readUInt32BE(data + 16),
        };
        expectOnCanvas(area, canvas, isBeforeImage);
        if ((bytes[data + 24] ?? 0) > MAX_DISPOSAL || (bytes[data + 25] ?? 0) > MAX_BLENDING)
          throw new MalformedImageError('A frame of the PNG is drawn in an unknown way.');
        animation.addFrame(area);
        // The data of a frame before the picture are the picture.
        if (!isBeforeImage) frame = { width, height, data: [] };
        kept.keep(start, end);
      }
    } else if (type === 'fdAT') {
      // Only data of frames within the frame count of acTL.
      if (framesLeft >= 0 && framesLeft < frames && !isBeforeImage) {
        expectCrc(bytes, chunk);
        expectNumber(bytes, chunk, sequence);
        sequence += 1;
        frame?.data.push(bytes.subarray(data + 4, dataEnd));
        kept.keep(start, end);
      }
    } else if (isKeptAncillary(type, length, colourType, paletteEntries)) {
      if (isFirst && isBeforeImage && hasCrc(bytes, chunk)) {
        once.add(type);
        kept.keep(start, end);
      }
    }
    previousType = type;
  }
  if (!image) throw new MalformedImageError('The PNG has no picture.');
  kept.write(IEND);
  return kept.finish();
}

/** Whether the file ends here: with an IEND of any length and checksum, without one, or within another chunk. */
function isEndOrCut(bytes: Buffer, at: number): boolean {
  const data = at + 8;
  if (data > bytes.length || bytes.toString('latin1', at + 4, data) === 'IEND') return true;
  return (
    !IMAGE_DATA.includes(bytes.toString('latin1', at + 4, data)) &&
    data + bytes.readUInt32BE(at) + 4 > bytes.length
  );
}

/** @throws MalformedImageError when a chunk of a frame is not numbered in order */
function expectNumber(bytes: Buffer, { data, dataEnd }: Chunk, sequence: number): void {
  if (dataEnd - data < 4 || bytes.readUInt32BE(data) !== sequence)
    throw new MalformedImageError('The frames of the PNG are not in order.');
}

/** @throws MalformedImageError when a frame is not on the canvas, or the picture as a frame does not fill it */
function expectOnCanvas(
  { left, top, width, height }: Area,
  canvas: Pick<Area, 'width' | 'height'>,
  isPicture: boolean,
): void {
  const isOutside = left + width > canvas.width || top + height > canvas.height;
  const isSmaller = width < canvas.width || height < canvas.height;
  if (isOutside || width === 0 || height === 0 || (isPicture && isSmaller))
    throw new MalformedImageError('A frame of the PNG is not on its canvas.');
}

/** A frame behind the picture, with its compressed data. */
type Frame = { readonly width: number; readonly height: number; readonly data: Buffer[] };

/**
 * Decompresses a frame behind the picture: the decoder of this service reads only the picture.
 *
 * @throws MalformedImageError when rows are missing
 */
function expectWhole(bytes: Buffer, header: Chunk, { width, height, data }: Frame): void {
  const length = decodedLengthOf(bytes, header, width, height);
  if (length > MAX_DECODED_LENGTH) {
    throw new ImageLimitError(
      ANIMATION_TOO_LARGE,
      `A frame decodes to more than ${MAX_DECODED_LENGTH} bytes.`,
    );
  }
  const inflated = inflate(Buffer.concat(data), length);
  if (inflated?.data.length !== length) throw new MalformedImageError('A frame of the PNG is incomplete.');
}

function expectInterlacingLimit(bytes: Buffer, header: Chunk): void {
  const limit = IMAGE_LIMITS.pngInterlacedBytes;
  if (isInterlaced(bytes, header) && decodedLengthOf(bytes, header) > limit) {
    throw new ImageLimitError(TOO_COMPLEX, `The PNG is interlaced and decodes to more than ${limit} bytes.`);
  }
}

function isInterlaced(bytes: Buffer, header: Chunk): boolean {
  return bytes[header.data + 12] === 1;
}

function chunkAt(bytes: Buffer, start: number): Chunk {
  const data = start + 8;
  if (data > bytes.length) throw new MalformedImageError('The PNG has no end.');
  const dataEnd = data + bytes.readUInt32BE(start);
  const end = dataEnd + 4;
  if (end > bytes.length) throw new MalformedImageError('A chunk of the PNG runs over its end.');
  return { type: bytes.toString('latin1', start + 4, data), start, data, dataEnd, end };
}

function hasCrc(bytes: Buffer, { start, dataEnd }: Chunk): boolean {
  return crc32(bytes.subarray(start + 4, dataEnd)) === bytes.readUInt32BE(dataEnd);
}

function expectCrc(bytes: Buffer, chunk: Chunk): void {
  if (!hasCrc(bytes, chunk)) throw new MalformedImageError('A chunk of the PNG has a wrong checksum.');
}

function newChunk(type: string, data: Buffer): Buffer {
  const chunk = Buffer.alloc(data.length + 12);
  chunk.writeUInt32BE(data.length);
  chunk.write(type, 4, 'latin1');
  chunk.set(data, 8);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, data.length + 8)), data.length + 8);
  return chunk;
}

function isKeptAncillary(type: string, length: number, colourType: number, paletteEntries: number): boolean {
  if (type === 'sBIT') return length === SIGNIFICANT_BITS[colourType];
  if (type === 'bKGD')
    return length === BACKGROUND[colourType] && (colourType !== PALETTE || paletteEntries > 0);
  return ANCILLARY_LENGTHS.get(type) === length;
}

function isTransparency(length: number, colourType: number, paletteEntries: number): boolean {
  if (colourType === PALETTE) return length > 0 && length <= paletteEntries;
  return (colourType === 0 && length === 2) || (colourType === 2 && length === 6);
}

/**
 * The colour profile without personal data, compressed; `undefined` when decoders ignore it. The stream as sent is kept when
 * it holds exactly this profile. Otherwise it is compressed anew: libpng takes the bytes up to the profile's own length,
 * whatever the stream's checksum is.
 */
function profileOf(bytes: Buffer, chunk: Chunk): Buffer | undefined {
  const nameEnd = bytes.indexOf(0, chunk.data);
  if (nameEnd === -1 || nameEnd - chunk.data > 79 || nameEnd + 2 > chunk.dataEnd) return undefined;
  if (bytes[nameEnd + 1] !== 0) return undefined;
  const compressed = bytes.subarray(nameEnd + 2, chunk.dataEnd);
  const profile = inflateProfile(compressed);
  const plain = profile && plainProfile(profile);
  if (!plain) return undefined;
  const whole = plain.equals(profile) ? inflate(compressed, plain.length) : undefined;
  if (whole?.data.length === plain.length) return compressed.subarray(0, whole.end);
  const anew = deflateSync(plain, { level: 9 });
  if (anew.length > compressed.length + MAX_PROFILE_GROWTH)
    throw new ImageLimitError(TOO_COMPLEX, 'The colour profile is compressed too well.');
  return anew;
}

/**
 * The first bytes of a compressed profile, as many as the profile's header states. The stream may lack its end, its
 * checksum, or have a wrong one.
 */
function inflateProfile(compressed: Buffer): Buffer | undefined {
  // The header of a zlib stream (RFC 1950): deflate with a window of up to 32 KiB, and without a dictionary.
  const [method = 0, flags = 0] = compressed;
  const isZlib = (method & 0x0f) === 8 && method >> 4 <= 7 && (method * 256 + flags) % 31 === 0;
  if (!isZlib || (flags & 0x20) !== 0) return undefined;
  try {
    const inflated = inflateRawSync(compressed.subarray(2), {
      finishFlush: constants.Z_SYNC_FLUSH,
      maxOutputLength: IMAGE_LIMITS.pngProfileBytes,
    });
    const length = inflated.length < 4 ? 0 : inflated.readUInt32BE(0);
    return length === 0 || length > inflated.length ? undefined : inflated.subarray(0, length);
  } catch {
    return undefined;
  }
}

/**
 * Keeps the IDAT chunks unchanged. With bytes after the end of the compressed data: writes one chunk without these bytes.
 */
function keepImage(
  bytes: Buffer,
  image: { start: number; end: number },
  header: Chunk,
  kept: KeptBytes,
): void {
  const decodedLength = decodedLengthOf(bytes, header);
  if (decodedLength <= MAX_DECODED_LENGTH) {
    const compressed = dataOf(bytes, image);
    const inflated = inflate(compressed, decodedLength);
    if (inflated && inflated.end < compressed.length) {
      kept.write(newChunk('IDAT', compressed.subarray(0, inflated.end)));
      return;
    }
  }
  kept.keep(image.start, image.end);
}

function dataOf(bytes: Buffer, { start, end }: { start: number; end: number }): Buffer {
  // One buffer instead of a list of parts: a hostile file has a million parts.
  const data = Buffer.allocUnsafe(end - start);
  let length = 0;
  for (let at = start; at < end;) {
    const chunk = chunkAt(bytes, at);
    length += bytes.copy(data, length, chunk.data, chunk.dataEnd);
    at = chunk.end;
  }
  return data.subarray(0, length);
}

/** The length of all rows, each with its filter byte; for an interlaced picture, of the rows of all Adam7 passes. */
function decodedLengthOf(
  bytes: Buffer,
  header: Chunk,
  width = bytes.readUInt32BE(header.data),
  height = bytes.readUInt32BE(header.data + 4),
): number {
  const depth = bytes[header.data + 8] ?? 0;
  const samples = [1, 0, 3, 1, 2, 0, 4][bytes[header.data + 9] ?? 0] ?? 0;
  const rows = (columns: number, lines: number): number =>
    columns === 0 ? 0 : lines * (1 + Math.ceil((columns * samples * depth) / 8));
  if (!isInterlaced(bytes, header)) return rows(width, height);
  const passes = [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
  ] as const;
  return passes.reduce(
    (sum, [x, y, dx, dy]) => sum + rows(Math.ceil((width - x) / dx), Math.ceil((height - y) / dy)),
    0,
  );
}

/**
 * Decompresses a zlib stream to find its end.
 *
 * @returns `undefined` when the stream is broken or decompresses to more than the limit: the image decoder decides then
 */
function inflate(compressed: Buffer, limit: number): { data: Buffer; end: number } | undefined {
  try {
    // With `info`, inflateSync returns an object. The types do not declare this.
    const { buffer, engine } = inflateSync(compressed, {
      info: true,
      maxOutputLength: Math.max(limit, 1),
      chunkSize: 64 * 1024,
    }) as unknown as { buffer: Buffer; engine: { bytesWritten: number } };
    return { data: buffer, end: engine.bytesWritten };
  } catch {
    return undefined;
  }
}
