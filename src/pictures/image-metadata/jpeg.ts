import { plainProfile } from './colour-profile.js';
import { orientationExif, readOrientation, UPRIGHT } from './exif-orientation.js';
import { ImageLimitError, NOT_SHOWN, TOO_COMPLEX } from './image-limit-error.js';
import { IMAGE_LIMITS } from './image-limits.js';
import { type CleanedImage, KeptBytes } from './kept-bytes.js';
import { MalformedImageError } from './malformed-image-error.js';
import { PartCount } from './part-count.js';

const SOI = 0xd8;
const EOI = 0xd9;
const SOS = 0xda;
const DHT = 0xc4;
const DAC = 0xcc;
const DQT = 0xdb;
const DNL = 0xdc;
const DRI = 0xdd;
const APP0 = 0xe0;
const APP1 = 0xe1;
const APP2 = 0xe2;
const APP14 = 0xee;

/** Marker, length and the fields of APP0 before the thumbnail (JFIF 1.02). */
const JFIF_LENGTH = 18;
/** Marker, length and the twelve bytes of Adobe's APP14. */
const ADOBE_LENGTH = 16;
/** Marker, length, `Exif\0\0` and the orientation tag. */
const EXIF_LENGTH = 36;
/** Marker, length, `ICC_PROFILE\0`, the sequence number of this part of the profile, and the number of parts. */
const PROFILE_HEADER_LENGTH = 18;
const HEAD_LENGTH = 2 + JFIF_LENGTH + EXIF_LENGTH + ADOBE_LENGTH;

/** Baseline, extended and progressive with Huffman coding: the only frame types that browsers and phones show. */
const PROGRESSIVE = 0xc2;
const SHOWN_FRAMES = [0xc0, 0xc1, PROGRESSIVE];

/** Offsets of a segment: `start` is its 0xff, `data` its first data byte, `end` the first byte after it. */
type Segment = { readonly start: number; readonly data: number; readonly end: number };

/**
 * Keeps the parts of a JPEG (ITU-T T.81 Annex B) that decoding needs: tables, frame, scans, JFIF without thumbnail, the ICC
 * profile and Adobe's colour transform. Everything else is dropped, including bytes between segments and after the first
 * EOI. This removes second pictures (MPF, gain maps), motion photos and appended archives.
 *
 * The colour profile is reduced to what colours need, see `plainProfile`. A part of the profile with an unexpected sequence
 * number is dropped.
 *
 * A file that ends inside a scan gets an end marker. Whether data of the picture are missing is for the decoder to find.
 *
 * JFIF and Adobe segments count only before the first scan, and the last of each wins, as in libjpeg. Not covered: hidden
 * bytes after the last block of a scan, and in unused tables. Finding these bytes takes a whole Huffman decoder.
 */
export function jpegWithoutMetadata(bytes: Buffer): CleanedImage {
  if (bytes[0] !== 0xff || bytes[1] !== SOI) throw new MalformedImageError('The JPEG has no start.');
  const kept = new KeptBytes(bytes);
  const head = kept.reserve(HEAD_LENGTH);
  let jfif = Buffer.alloc(0);
  let adobe = Buffer.alloc(0);
  let orientation: number | undefined;
  const parts = new PartCount(bytes.length);
  let hasProfile = false;
  let frame: Frame | undefined;
  let hasScan = false;

  let at = markerAfter(bytes, 2);
  for (let marker = bytes[at]; marker !== EOI; at = markerAfter(bytes, at), marker = bytes[at]) {
    parts.add();
    if (marker === SOI) throw new MalformedImageError('The JPEG starts twice.');
    if (marker === undefined || isBare(marker)) {
      at += 1;
      continue;
    }
    const segment = segmentAt(bytes, at);
    at = segment.end;
    if (marker === SOS) {
      if (!frame) throw new MalformedImageError('The JPEG has a scan before its frame.');
      expectLength(segment, 6 + 2 * (bytes[segment.data] ?? 0));
      frame.addScan(bytes, segment);
      hasScan = true;
      at = endOfScan(bytes, segment.end);
      kept.keep(segment.start, at);
      if (isEndMissing(bytes, at)) break;
    } else if (isFrame(marker)) {
      if (frame) throw new MalformedImageError('The JPEG has two frames.');
      expectLength(segment, 8 + 3 * (bytes[segment.data + 5] ?? 0));
      if (!SHOWN_FRAMES.includes(marker)) {
        throw new ImageLimitError(NOT_SHOWN, 'The JPEG is of arithmetic coding, lossless or hierarchical.');
      }
      if (bytes[segment.data] !== 8) {
        throw new ImageLimitError(NOT_SHOWN, `The JPEG has ${bytes[segment.data] ?? 0} bits per sample.`);
      }
      frame = new Frame(bytes, segment);
      kept.keep(segment.start, segment.end);
    } else if (marker === DQT || marker === DHT || marker === DAC) {
      kept.keep(segment.start, segment.end);
    } else if (marker === DRI) {
      expectLength(segment, 4);
      kept.keep(segment.start, segment.end);
    } else if (marker === DNL) {
      // Decoders skip it, whatever its length is.
      if (segment.end - segment.data === 2) kept.keep(segment.start, segment.end);
    } else if (hasScan) {
      continue;
    } else if (marker === APP0 && isNamed(bytes, segment, 'JFIF\0', 14)) {
      jfif = withLength(bytes, segment, JFIF_LENGTH);
      jfif.fill(0, JFIF_LENGTH - 2); // a thumbnail of no columns and no rows
    } else if (marker === APP14 && isNamed(bytes, segment, 'Adobe', 12)) {
      adobe = withLength(bytes, segment, ADOBE_LENGTH);
    } else if (marker === APP2 && isNamed(bytes, segment, 'ICC_PROFILE\0', 14)) {
      if (!hasProfile) keepProfile(bytes, segment, kept);
      hasProfile = true;
    } else if (marker === APP1 && isNamed(bytes, segment, 'Exif\0\0', 6)) {
      orientation ??= readOrientation(bytes.subarray(segment.data + 6, segment.end));
    }
  }
  if (!hasScan) throw new MalformedImageError('The JPEG has no picture.');
  kept.write(Buffer.from([0xff, EOI]));

  // The head is known only now. Write it to the end of the reserved bytes, and cut the unused bytes before it.
  const first = Buffer.concat([
    Buffer.from([0xff, SOI]),
    jfif,
    orientation === undefined || orientation === UPRIGHT ? Buffer.alloc(0) : exifSegment(orientation),
    adobe,
  ]);
  const unused = HEAD_LENGTH - first.length;
  head.set(first, unused);
  return kept.finish(unused);
}

/**
 * Writes the colour profile without personal data, in its segments. Decoders join the segments by sequence number. With
 * segments in another order they would use an unchecked profile, so these are dropped.
 *
 * @param first the first segment of the profile
 */
function keepProfile(bytes: Buffer, first: Segment, kept: KeptBytes): void {
  const segments: Segment[] = [];
  for (let segment = first, code = first.start + 1; ;) {
    if (bytes[code] === APP2 && isNamed(bytes, segment, 'ICC_PROFILE\0', 14)) {
      if (bytes[segment.data + 12] === segments.length + 1) segments.push(segment);
    }
    code = markerAfter(bytes, segment.end);
    while (isBare(bytes[code] ?? EOI)) code = markerAfter(bytes, code + 1);
    if (bytes[code] === SOS || bytes[code] === EOI || bytes[code] === SOI) break;
    segment = segmentAt(bytes, code);
  }
  const parts = segments.map(({ start, end }) => bytes.subarray(start + PROFILE_HEADER_LENGTH, end));
  const plain = plainProfile(Buffer.concat(parts));
  if (!plain) return;
  let used = 0;
  for (const { start, end } of segments) {
    const part = end - start - PROFILE_HEADER_LENGTH;
    kept.keep(start, start + PROFILE_HEADER_LENGTH);
    kept.write(plain.subarray(used, used + part));
    used += part;
  }
}

/**
 * Counts the fields of a cleaned JPEG that decoders complain of, although the picture is whole: each scan that states
 * coefficients although the picture is not progressive, an unknown colour transform, another version of JFIF.
 */
export function harmlessOddities(bytes: Buffer): number {
  let count = 0;
  let isSequential = false;
  for (let at = markerAfter(bytes, 2); bytes[at] !== EOI;) {
    const marker = bytes[at] ?? 0;
    const segment = segmentAt(bytes, at);
    const { data, end } = segment;
    if (marker === SOS) {
      const [first, last, bits] = bytes.subarray(end - 3, end);
      if (isSequential && (first !== 0 || last !== 63 || bits !== 0)) count += 1;
    } else if (isFrame(marker)) isSequential = marker !== PROGRESSIVE;
    else if (marker === APP0 && bytes[data + 5] !== 1) count += 1;
    else if (marker === APP14 && (bytes[data + 11] ?? 0) > 2) count += 1;
    at = markerAfter(bytes, marker === SOS ? endOfScan(bytes, end) : end);
  }
  return count;
}

/** Whether a cleaned JPEG is progressive: its scans refine the picture. Otherwise they draw a component each. */
export function isProgressive(bytes: Buffer): boolean {
  for (let at = markerAfter(bytes, 2); bytes[at] !== EOI;) {
    if (isFrame(bytes[at] ?? 0)) return bytes[at] === PROGRESSIVE;
    at = markerAfter(bytes, segmentAt(bytes, at).end);
  }
  return false;
}

/** Counts the cost of a frame's scans. */
class Frame {
  /** Blocks of 8 × 8 per component. Subsampled components count as full size, so the sum is an upper bound. */
  readonly #blocks: number;
  #scans = 0;
  #coefficients = 0;

  constructor(bytes: Buffer, { data }: Segment) {
    const [height, width] = [bytes.readUInt16BE(data + 1), bytes.readUInt16BE(data + 3)];
    this.#blocks = Math.ceil(width / 8) * Math.ceil(height / 8);
  }

  /** @throws ImageLimitError when the scans so far exceed a limit */
  addScan(bytes: Buffer, { data, end }: Segment): void {
    const components = bytes[data] ?? 0;
    const band = Math.max(1, (bytes[end - 2] ?? 0) - (bytes[end - 3] ?? 0) + 1);
    this.#coefficients += components * this.#blocks * band;
    this.#scans += 1;
    const { jpegScans, jpegCoefficients } = IMAGE_LIMITS;
    if (this.#scans > jpegScans) {
      throw new ImageLimitError(TOO_COMPLEX, `The JPEG has more than ${jpegScans} scans.`);
    }
    if (this.#coefficients > jpegCoefficients) {
      throw new ImageLimitError(
        TOO_COMPLEX,
        `The JPEG's scans go over more than ${jpegCoefficients} values.`,
      );
    }
  }
}

/** The position of the next marker's code. Skips fill bytes and bytes that are not a marker (T.81 B.1.1.2). */
function markerAfter(bytes: Buffer, from: number): number {
  for (let at = from; ; at += 1) {
    at = afterFill(bytes, indexOf0xff(bytes, at));
    if (bytes[at] !== 0) return at;
  }
}

/**
 * The position of the marker that ends a scan: not a stuffed zero and not a restart marker (T.81 B.1.1.5). A file that ends
 * inside a scan ends it, too. Zeros in place of the end marker are not data: a decoder would draw a missing part from them.
 */
function endOfScan(bytes: Buffer, from: number): number {
  for (let at = from; ; at += 1) {
    const start = bytes[at] === 0xff ? at : next0xff(bytes, at);
    at = start;
    while (bytes[at] === 0xff) at += 1;
    if (at >= bytes.length) return endOfData(bytes, from, Math.min(start, bytes.length));
    const code = bytes[at] ?? EOI;
    if (code !== 0 && !isRestart(code)) return start;
  }
}

/** The position after the last byte that is not zero. A stuffed zero belongs to the byte before it. */
function endOfData(bytes: Buffer, from: number, to: number): number {
  let end = to;
  while (end > from && bytes[end - 1] === 0) end -= 1;
  return end < to && end > from && bytes[end - 1] === 0xff ? end + 1 : end;
}

/** Whether a scan ended with the file, without a marker: at most fill bytes of one are left. */
function isEndMissing(bytes: Buffer, end: number): boolean {
  let at = end;
  while (bytes[at] === 0xff) at += 1;
  return at === end || at >= bytes.length;
}

function indexOf0xff(bytes: Buffer, from: number): number {
  const found = next0xff(bytes, from);
  if (found >= bytes.length) throw new MalformedImageError('The JPEG has no end.');
  return found;
}

/** The position of the next 0xff, or the length of the file. */
function next0xff(bytes: Buffer, from: number): number {
  // Check the next 16 bytes in JavaScript first: a hostile file of only 0xff 0x00 would cost a native call per two bytes.
  const near = Math.min(from + 16, bytes.length);
  for (let at = from; at < near; at += 1) if (bytes[at] === 0xff) return at;
  const found = bytes.indexOf(0xff, near);
  return found === -1 ? bytes.length : found;
}

function afterFill(bytes: Buffer, start: number): number {
  let at = start;
  while (bytes[at] === 0xff) at += 1;
  if (at >= bytes.length) throw new MalformedImageError('The JPEG has no end.');
  return at;
}

function segmentAt(bytes: Buffer, code: number): Segment {
  const data = code + 3;
  const stated = data <= bytes.length ? bytes.readUInt16BE(code + 1) : 0;
  // Decoders skip a segment that they need not read, also when its length does not even count itself.
  const length = stated < 2 && data <= bytes.length && isSkipped(bytes[code] ?? 0) ? 2 : stated;
  const end = code + 1 + length;
  if (length < 2 || end > bytes.length)
    throw new MalformedImageError('A segment of the JPEG has a wrong length.');
  return { start: code - 1, data, end };
}

/** @param length as in the segment's length field, which counts its own two bytes */
function expectLength(segment: Segment, length: number): void {
  if (segment.end - segment.data + 2 !== length) {
    throw new MalformedImageError('A segment of the JPEG has a wrong length.');
  }
}

function isNamed(bytes: Buffer, segment: Segment, name: string, minLength: number): boolean {
  const { data, end } = segment;
  return end - data >= minLength && bytes.toString('latin1', data, data + name.length) === name;
}

/** A copy of the segment's first bytes with an adjusted length field. */
function withLength(bytes: Buffer, segment: Segment, length: number): Buffer<ArrayBuffer> {
  const copy = Buffer.alloc(length);
  bytes.copy(copy, 0, segment.start, segment.start + length);
  copy.writeUInt16BE(length - 2, 2);
  return copy;
}

function exifSegment(orientation: number): Buffer {
  const marker = [0xff, APP1, 0, EXIF_LENGTH - 2];
  return Buffer.concat([Buffer.from(marker), Buffer.from('Exif\0\0'), orientationExif(orientation)]);
}

function isRestart(code: number): boolean {
  return code >= 0xd0 && code <= 0xd7;
}

/** Whether a marker has no segment. */
function isBare(code: number): boolean {
  return code === 0x01 || isRestart(code);
}

/** Whether decoders skip a segment that they can't read: application data, a comment, the number of lines. */
function isSkipped(code: number): boolean {
  return (code >= APP0 && code <= 0xef) || code === 0xfe || code === DNL;
}

function isFrame(code: number): boolean {
  return code >= 0xc0 && code <= 0xcf && code !== DHT && code !== 0xc8 && code !== DAC;
}
