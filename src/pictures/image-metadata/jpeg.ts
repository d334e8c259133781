import { expectPlainProfile } from './colour-profile.js';
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

/** Marker, length and what JFIF 1.02 gives APP0 before the thumbnail. */
const JFIF_LENGTH = 18;
/** Marker, length and the twelve bytes of Adobe's APP14. */
const ADOBE_LENGTH = 16;
/** Marker, length, `Exif\0\0` and the one tag. */
const EXIF_LENGTH = 36;
/** Marker, length, `ICC_PROFILE\0`, the number of this part of the profile and how many there are. */
const PROFILE_HEADER_LENGTH = 18;
const HEAD_LENGTH = 2 + JFIF_LENGTH + EXIF_LENGTH + ADOBE_LENGTH;

/** Baseline, extended and progressive, all of Huffman coding: browsers and phones show no others. */
const SHOWN_FRAMES = [0xc0, 0xc1, 0xc2];

/** Where a segment lies: from its 0xff up to the next byte after it. Its data begin at `data`. */
type Segment = { readonly start: number; readonly data: number; readonly end: number };

/**
 * Keeps of a JPEG (ITU-T T.81 Annex B) what decoding needs: tables, frame, scans, JFIF without its thumbnail, the ICC
 * profile and Adobe's colour transform. All else is dropped, bytes between the segments and behind the first EOI too:
 * with these go the second pictures of MPF and gain maps, motion photos and appended archives.
 *
 * A part of the colour profile that is not the next one by its number is dropped too.
 *
 * JFIF and Adobe count only before the first scan, and the last of each wins, as in libjpeg. Bytes that hide in a scan
 * behind its last block, or in tables that no scan uses, stay: finding them takes a whole Huffman decoder.
 */
export function jpegWithoutMetadata(bytes: Buffer): CleanedImage {
  if (bytes[0] !== 0xff || bytes[1] !== SOI) throw new MalformedImageError('The JPEG has no start.');
  const kept = new KeptBytes(bytes);
  const head = kept.reserve(HEAD_LENGTH);
  let jfif = Buffer.alloc(0);
  let adobe = Buffer.alloc(0);
  let orientation: number | undefined;
  const parts = new PartCount(bytes.length);
  const profile: Buffer[] = [];
  let frame: Frame | undefined;
  let hasScan = false;

  let at = markerAfter(bytes, 2);
  for (let marker = bytes[at]; marker !== EOI; at = markerAfter(bytes, at), marker = bytes[at]) {
    parts.add();
    if (marker === SOI) throw new MalformedImageError('The JPEG starts twice.');
    if (marker === undefined || marker === 0x01 || isRestart(marker)) {
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
    } else if (isFrame(marker)) {
      if (frame) throw new MalformedImageError('The JPEG has two frames.');
      expectLength(segment, 8 + 3 * (bytes[segment.data + 5] ?? 0));
      if (!SHOWN_FRAMES.includes(marker)) {
        throw new ImageLimitError(NOT_SHOWN, 'The JPEG is of arithmetic coding, lossless or hierarchical.');
      }
      frame = new Frame(bytes, segment);
      kept.keep(segment.start, segment.end);
    } else if (marker === DQT || marker === DHT || marker === DAC) {
      kept.keep(segment.start, segment.end);
    } else if (marker === DRI || marker === DNL) {
      expectLength(segment, 4);
      kept.keep(segment.start, segment.end);
    } else if (hasScan) {
      continue;
    } else if (marker === APP0 && isNamed(bytes, segment, 'JFIF\0', 14)) {
      jfif = withLength(bytes, segment, JFIF_LENGTH);
      jfif.fill(0, JFIF_LENGTH - 2); // a thumbnail of no columns and no rows
    } else if (marker === APP14 && isNamed(bytes, segment, 'Adobe', 12)) {
      adobe = withLength(bytes, segment, ADOBE_LENGTH);
    } else if (marker === APP2 && isNamed(bytes, segment, 'ICC_PROFILE\0', 14)) {
      // Decoders put the parts together by their numbers. In any other order the profile would not be the one checked here.
      if (bytes[segment.data + 12] === profile.length + 1) {
        profile.push(bytes.subarray(segment.start + PROFILE_HEADER_LENGTH, segment.end));
        kept.keep(segment.start, segment.end);
      }
    } else if (marker === APP1 && isNamed(bytes, segment, 'Exif\0\0', 6)) {
      orientation ??= readOrientation(bytes.subarray(segment.data + 6, segment.end));
    }
  }
  if (!hasScan) throw new MalformedImageError('The JPEG has no picture.');
  expectPlainProfile(Buffer.concat(profile));
  kept.write(Buffer.from([0xff, EOI]));

  // What goes first is known last, and is put against the end of the room that was left for it.
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

/** What the scans of a frame cost. */
class Frame {
  /** Blocks of 8 × 8 of a component. Those of a coarser component count as much, so that the sum is the most it can be. */
  readonly #blocks: number;
  #scans = 0;
  #coefficients = 0;

  constructor(bytes: Buffer, { data }: Segment) {
    const [height, width] = [bytes.readUInt16BE(data + 1), bytes.readUInt16BE(data + 3)];
    this.#blocks = Math.ceil(width / 8) * Math.ceil(height / 8);
  }

  /** @throws ImageLimitError when the scans so far go over more than any real picture's */
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

/** The position of the next marker's code, behind fill bytes and whatever is no marker (T.81 B.1.1.2). */
function markerAfter(bytes: Buffer, from: number): number {
  for (let at = from; ; at += 1) {
    at = afterFill(bytes, indexOf0xff(bytes, at));
    if (bytes[at] !== 0) return at;
  }
}

/** The position of the marker that ends a scan: the first that is neither a stuffed zero nor a restart (T.81 B.1.1.5). */
function endOfScan(bytes: Buffer, from: number): number {
  for (let at = from; ;) {
    const start = indexOf0xff(bytes, at);
    at = afterFill(bytes, start);
    const code = bytes[at] ?? EOI;
    if (code !== 0 && !isRestart(code)) return start;
    at += 1;
  }
}

function indexOf0xff(bytes: Buffer, from: number): number {
  // A look at the next few saves the native call where a hostile file has nothing but 0xff 0x00.
  const near = Math.min(from + 16, bytes.length);
  for (let at = from; at < near; at += 1) if (bytes[at] === 0xff) return at;
  const found = bytes.indexOf(0xff, near);
  if (found === -1) throw new MalformedImageError('The JPEG has no end.');
  return found;
}

function afterFill(bytes: Buffer, start: number): number {
  let at = start;
  while (bytes[at] === 0xff) at += 1;
  if (at >= bytes.length) throw new MalformedImageError('The JPEG has no end.');
  return at;
}

function segmentAt(bytes: Buffer, code: number): Segment {
  const data = code + 3;
  const length = data <= bytes.length ? bytes.readUInt16BE(code + 1) : 0;
  const end = code + 1 + length;
  if (length < 2 || end > bytes.length)
    throw new MalformedImageError('A segment of the JPEG has a wrong length.');
  return { start: code - 1, data, end };
}

/** @param length as the segment states it: with its own two bytes */
function expectLength(segment: Segment, length: number): void {
  if (segment.end - segment.data + 2 !== length) {
    throw new MalformedImageError('A segment of the JPEG has a wrong length.');
  }
}

function isNamed(bytes: Buffer, segment: Segment, name: string, leastLength: number): boolean {
  const { data, end } = segment;
  return end - data >= leastLength && bytes.toString('latin1', data, data + name.length) === name;
}

/** A copy of the segment's first bytes, with the length field made to fit. */
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

function isFrame(code: number): boolean {
  return code >= 0xc0 && code <= 0xcf && code !== DHT && code !== 0xc8 && code !== DAC;
}
