import { deflateSync } from 'node:zlib';
import type { ImageFormat } from '../../src/pictures/image-format.js';
import { colourProfile, jpegSegment, pngChunk, pngProfile, webpChunk } from '../support/hostile-pictures.js';
import { PERSON, personalExif, personalIptc, personalXmp } from './personal-data.js';

/** A part of a file: a segment of a JPEG, a chunk of a PNG or WebP, a block of a GIF, or the bytes between them. */
export type Part = {
  readonly name: string;
  /** All bytes of the part, as they are in the file. */
  readonly bytes: Buffer;
  /** Of a part with a length field. */
  readonly content?: {
    readonly data: Buffer;
    /** The part with other data, and with the right length and checksum. */
    readonly write: (data: Buffer) => Buffer;
    /** The part with another length in its length field, and the same bytes. */
    readonly state: (length: number) => Buffer;
    readonly maxLength: number;
    readonly hasChecksum: boolean;
    /** Where a zlib stream begins in the data. */
    readonly zlib?: number;
  };
};

/** How files of a format are built of parts. */
export type Grammar = {
  readonly format: ImageFormat;
  /** Nothing when the file has no such parts. */
  readonly split: (bytes: Buffer) => Part[];
  /** Writes the outermost lengths anew. */
  readonly join: (parts: readonly Buffer[]) => Buffer;
  /** Parts that a file may have, most of them with personal data. */
  readonly others: readonly Part[];
};

const EMPTY = Buffer.alloc(0);
const raw = (name: string, bytes: Buffer): Part => ({ name, bytes });
const text = (value: string): Buffer => Buffer.from(value, 'latin1');

// JPEG (ITU-T T.81 Annex B)

function jpegPart(marker: number, data: Buffer, bytes: Buffer): Part {
  return {
    name: marker.toString(16),
    bytes,
    content: {
      data,
      write: (changed) => jpegSegment(marker, changed),
      state: (length) => {
        const copy = Buffer.from(bytes);
        copy.writeUInt16BE((length + 2) & 0xffff, 2);
        return copy;
      },
      maxLength: 0xffff - 2,
      hasChecksum: false,
    },
  };
}

const segment = (marker: number, data: Buffer): Part => jpegPart(marker, data, jpegSegment(marker, data));

function splitJpeg(bytes: Buffer): Part[] {
  const parts = [raw('d8', bytes.subarray(0, 2))];
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1] ?? 0;
    if (marker === 0xd9) {
      parts.push(raw('d9', bytes.subarray(at, at + 2)));
      at += 2;
      break;
    }
    const end = at + 2 + bytes.readUInt16BE(at + 2);
    parts.push(jpegPart(marker, bytes.subarray(at + 4, end), bytes.subarray(at, end)));
    at = end;
    if (marker !== 0xda) continue;
    while (at < bytes.length && !(bytes[at] === 0xff && isMarker(bytes[at + 1] ?? 0))) at += 1;
    parts.push(raw('scan', bytes.subarray(end, at)));
  }
  if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) {
    parts.push(raw('d9', bytes.subarray(at, at + 2)));
    at += 2;
  }
  return at < bytes.length ? [...parts, raw('rest', bytes.subarray(at))] : parts;
}

const isMarker = (code: number): boolean => code !== 0 && !(code >= 0xd0 && code <= 0xd7);

/** @param person a colour profile with personal data */
const jpegParts = (person: Buffer): Part[] => [
  segment(0xe0, text(`JFIF\0\x01\x02\x01\0\x48\0\x48\0\0`)),
  segment(0xe0, text(`JFXX\0\x10${PERSON}`)),
  segment(0xe1, Buffer.concat([text('Exif\0\0'), personalExif('II', 6)])),
  segment(0xe1, Buffer.concat([text('http://ns.adobe.com/xap/1.0/\0'), personalXmp()])),
  segment(0xe2, Buffer.concat([text('ICC_PROFILE\0\x01\x01'), person])),
  segment(0xe2, text(`MPF\0MM\0*${PERSON}`)),
  segment(0xe5, text(PERSON)),
  segment(0xed, personalIptc()),
  segment(0xee, text(`Adobe\0\x64\0\0\0\0\x01${PERSON}`)),
  segment(0xee, text('Adobe\0\x64\0\0\0\0\0')),
  segment(0xfe, text(PERSON)),
  segment(0xf0, text(PERSON)),
  segment(0xcc, Buffer.of(0, 0x10)),
  segment(0xdc, Buffer.of(0, 12)),
  segment(0xdd, Buffer.of(0, 0)),
  segment(0xdd, Buffer.of(0, 1)),
  segment(0xc4, EMPTY),
  segment(0xdb, EMPTY),
  segment(0xc8, text(PERSON)),
  ...[0x01, 0xd0, 0xd3, 0xd7, 0xd8, 0xd9].map((code) => raw(code.toString(16), Buffer.of(0xff, code))),
  raw('fill', Buffer.of(0xff, 0xff)),
  raw('zeros', Buffer.alloc(3)),
  raw('text', text(PERSON)),
];

// PNG (third edition)

function pngPart(bytes: Buffer): Part {
  const name = bytes.toString('latin1', 4, 8);
  const data = bytes.subarray(8, -4);
  const zlib = zlibStart(name, data);
  return {
    name,
    bytes,
    content: {
      data,
      write: (changed) => pngChunk(name, changed),
      state: (length) => {
        const copy = Buffer.from(bytes);
        copy.writeUInt32BE(length >>> 0);
        return copy;
      },
      maxLength: 0x7fffffff,
      hasChecksum: true,
      ...(zlib === undefined ? {} : { zlib }),
    },
  };
}

function zlibStart(name: string, data: Buffer): number | undefined {
  if (name === 'IDAT') return 0;
  if (name === 'fdAT') return 4;
  return name === 'iCCP' || name === 'zTXt' ? data.indexOf(0) + 2 : undefined;
}

function splitPng(bytes: Buffer): Part[] {
  const parts = [raw('signature', bytes.subarray(0, 8))];
  let at = 8;
  while (at + 12 <= bytes.length) {
    const end = at + 12 + bytes.readUInt32BE(at);
    if (end > bytes.length) break;
    parts.push(pngPart(bytes.subarray(at, end)));
    at = end;
  }
  return at < bytes.length ? [...parts, raw('rest', bytes.subarray(at))] : parts;
}

const chunk = (name: string, data: Buffer | string = EMPTY): Part =>
  pngPart(pngChunk(name, Buffer.from(data as string, 'latin1')));

const pngParts = (person: Buffer): Part[] => [
  chunk('tEXt', `Author\0${PERSON}`),
  chunk('iTXt', `XML:com.adobe.xmp\0\0\0\0\0${personalXmp().toString('latin1')}`),
  chunk('zTXt', Buffer.concat([text('Author\0\0'), deflateSync(text(PERSON))])),
  chunk('eXIf', personalExif('MM', 3)),
  chunk('tIME', Buffer.of(0x07, 0xe9, 1, 2, 3, 4, 5)),
  chunk('pHYs', Buffer.of(0, 0, 0x0b, 0x13, 0, 0, 0x0b, 0x13, 1)),
  chunk('gAMA', Buffer.of(0, 1, 0x86, 0xa0)),
  chunk('gAMA', Buffer.alloc(4)),
  chunk(
    'cHRM',
    Buffer.from('00007a25000080840000fa00000080e80000753000000ea60000003a980000176f', 'hex').subarray(0, 32),
  ),
  chunk('sRGB', Buffer.of(1)),
  chunk('cICP', Buffer.of(12, 13, 0, 1)),
  chunk('cICP', Buffer.of(9, 16, 0, 1)),
  chunk('mDCV', Buffer.alloc(24, 1)),
  chunk('cLLI', Buffer.alloc(8, 1)),
  chunk('sBIT', Buffer.of(5, 6, 5)),
  chunk('bKGD', Buffer.of(0, 255, 0, 0, 0, 0)),
  chunk('tRNS', Buffer.of(0)),
  chunk('tRNS', Buffer.of(0, 1)),
  chunk('tRNS', Buffer.of(0, 1, 0, 2, 0, 3)),
  chunk('hIST', Buffer.alloc(8)),
  chunk('sPLT', `${PERSON}\0\x08`),
  chunk('PLTE', Buffer.of(255, 0, 0, 0, 255, 0)),
  pngPart(pngProfile(person)),
  chunk('acTL', Buffer.of(0, 0, 0, 1, 0, 0, 0, 0)),
  chunk(
    'fcTL',
    Buffer.concat([
      Buffer.from('0000000000000018000000100000000000000000', 'hex'),
      Buffer.of(0, 1, 0, 10, 0, 0),
    ]),
  ),
  chunk('fdAT', Buffer.of(0, 0, 0, 1, 1, 2, 3)),
  chunk('IDAT'),
  chunk('IEND'),
  chunk('prVt', PERSON),
  chunk('CRIT', PERSON),
  chunk('caBX', PERSON),
  raw('zeros', Buffer.alloc(12)),
  raw('text', text(PERSON)),
];

// GIF (GIF89a)

const paletteLength = (flags = 0): number => ((flags & 0x80) === 0 ? 0 : 3 * 2 ** ((flags & 0x07) + 1));

/** A part per block: extension or picture. */
function splitGif(bytes: Buffer): Part[] {
  const palette = 13 + paletteLength(bytes[10]);
  const parts = [raw('screen', bytes.subarray(0, 13)), raw('palette', bytes.subarray(13, palette))];
  let at = palette;
  while (bytes[at] === 0x21 || bytes[at] === 0x2c) {
    const isPicture = bytes[at] === 0x2c;
    const name = isPicture ? 'picture' : (bytes[at + 1] ?? 0).toString(16);
    let end = at + (isPicture ? 10 + paletteLength(bytes[at + 9]) + 1 : 2);
    for (let length = bytes[end]; length !== 0 && length !== undefined; length = bytes[end])
      end += 1 + length;
    parts.push(raw(name, bytes.subarray(at, end + 1)));
    at = end + 1;
  }
  parts.push(raw('trailer', bytes.subarray(at, at + 1)), raw('rest', bytes.subarray(at + 1)));
  return parts.filter((part) => part.bytes.length > 0);
}

/** A part per sub-block. */
function splitGifBlocks(bytes: Buffer): Part[] {
  return splitGif(bytes).flatMap((part) => {
    if (part.name === 'screen' || part.name === 'palette' || part.name === 'trailer' || part.name === 'rest')
      return [part];
    let at = part.name === 'picture' ? 11 + paletteLength(part.bytes[9]) : 2;
    const parts = [raw(`${part.name} head`, part.bytes.subarray(0, at))];
    for (let length = part.bytes[at] ?? 0; length !== 0; length = part.bytes[at] ?? 0) {
      parts.push(subBlock(`${part.name} block`, part.bytes.subarray(at, at + 1 + length)));
      at += 1 + length;
    }
    return [...parts, raw(`${part.name} end`, part.bytes.subarray(at))];
  });
}

function subBlock(name: string, bytes: Buffer): Part {
  return {
    name,
    bytes,
    content: {
      data: bytes.subarray(1),
      write: (changed) => Buffer.concat([Buffer.of(changed.length), changed]),
      state: (length) => Buffer.concat([Buffer.of(length & 0xff), bytes.subarray(1)]),
      maxLength: 255,
      hasChecksum: false,
    },
  };
}

const GIF_PARTS: Part[] = [
  raw('fe', text(`\x21\xfe${String.fromCharCode(PERSON.length)}${PERSON}\0`)),
  raw(
    'ff XMP',
    Buffer.concat([
      text(`\x21\xff\x0bXMP DataXMP${String.fromCharCode(personalXmp().length)}`),
      personalXmp(),
      Buffer.of(0),
    ]),
  ),
  raw('ff Exif', text(`\x21\xff\x0bEXIF    1.0${String.fromCharCode(PERSON.length)}${PERSON}\0`)),
  raw('ff loop', text('\x21\xff\x0bNETSCAPE2.0\x03\x01\x05\0\0')),
  raw('ff loop', text('\x21\xff\x0bANIMEXTS1.0\x03\x01\x07\0\0')),
  raw('ff buffering', text('\x21\xff\x0bNETSCAPE2.0\x05\x02\0\0\0\x01\0')),
  raw(
    '01',
    text(`\x21\x01\x0c\0\0\0\0\x08\0\x08\0\x08\x08\x01\0${String.fromCharCode(PERSON.length)}${PERSON}\0`),
  ),
  raw('f9', text('\x21\xf9\x04\x01\x0a\0\x01\0')),
  raw('f9', text('\x21\xf9\x04\x08\0\0\0\0')),
  raw('f9 long', text('\x21\xf9\x05\x00\x0a\0\x01\0\0')),
  raw('f9 twice', text('\x21\xf9\x04\x00\x0a\0\x01\x04\x00\x0a\0\x01\0')),
  raw('unknown', text(`\x21\x77${String.fromCharCode(PERSON.length)}${PERSON}\0`)),
  raw('empty', text('\x21\xfe\0')),
  raw('zero', Buffer.alloc(1)),
  raw('trailer', Buffer.of(0x3b)),
  raw('text', text(PERSON)),
];

// WebP (RFC 9649)

function webpPart(bytes: Buffer): Part {
  const name = bytes.toString('latin1', 0, 4);
  const length = bytes.readUInt32LE(4);
  return {
    name,
    bytes,
    content: {
      data: bytes.subarray(8, 8 + length),
      write: (changed) => webpChunk(name, changed),
      state: (stated) => {
        const copy = Buffer.from(bytes);
        copy.writeUInt32LE(stated >>> 0, 4);
        return copy;
      },
      maxLength: 0xfffffffe,
      hasChecksum: false,
    },
  };
}

function webpChunks(bytes: Buffer): Part[] {
  const parts: Part[] = [];
  let at = 0;
  while (at + 8 <= bytes.length) {
    const length = bytes.readUInt32LE(at + 4);
    const end = Math.min(at + 8 + length + (length % 2), bytes.length);
    parts.push(webpPart(bytes.subarray(at, end)));
    at = end;
  }
  return at < bytes.length ? [...parts, raw('rest', bytes.subarray(at))] : parts;
}

const joinWebp = (parts: readonly Buffer[]): Buffer => {
  const bytes = Buffer.concat(parts);
  if (bytes.length >= 12) bytes.writeUInt32LE(bytes.length - 8, 4);
  return bytes;
};

const part = (name: string, data: Buffer | string): Part =>
  webpPart(webpChunk(name, Buffer.from(data as string, 'latin1')));

const webpParts = (person: Buffer): Part[] => [
  part('EXIF', personalExif('II', 8)),
  part('EXIF', Buffer.concat([text('Exif\0\0'), personalExif('MM', 8)])),
  part('XMP ', personalXmp()),
  part('ICCP', person),
  part('ANIM', Buffer.alloc(6)),
  part('ANMF', Buffer.alloc(16)),
  part('ALPH', Buffer.alloc(25)),
  part('VP8X', Buffer.of(0x3c, 0, 0, 0, 23, 0, 0, 15, 0, 0)),
  part('ABCD', PERSON),
  part('ABCD', ''),
  raw('zeros', Buffer.alloc(8)),
  raw('text', text(PERSON)),
];

/** The chunks of the first frame of an animation. */
const FRAME_HEADER = 16;
const frameOf = (bytes: Buffer): number => bytes.indexOf('ANMF', 12, 'latin1');

/** A colour profile of a display with its serial number and the name of its owner. */
const person = colourProfile([
  ['desc', text(`desc\0\0\0\0\0\0\0\x18${PERSON}\0\0\0\0\0\0\0\0\0\0`)],
  ['cprt', text(`text\0\0\0\0${PERSON}\0`)],
  ['mmod', text(`mmod\0\0\0\0\0\0\x06\x10${PERSON}`)],
  ['vcgt', text(`vcgt\0\0\0\0\0\0\0\x01${PERSON}`)],
]);

const joined = (parts: readonly Buffer[]): Buffer => Buffer.concat(parts);

const splitWebp = (bytes: Buffer): Part[] => [
  raw('RIFF', bytes.subarray(0, 12)),
  ...webpChunks(bytes.subarray(12)),
];

/** The parts of the first frame. */
function splitWebpFrame(bytes: Buffer): Part[] {
  const frame = frameOf(bytes);
  if (frame === -1) return [];
  const data = frame + 8 + FRAME_HEADER;
  const end = frame + 8 + bytes.readUInt32LE(frame + 4);
  return [
    raw('before the frame', bytes.subarray(0, data)),
    ...webpChunks(bytes.subarray(data, end)),
    raw('behind the frame', bytes.subarray(end)),
  ];
}

function joinWebpFrame(parts: readonly Buffer[]): Buffer {
  const bytes = joinWebp(parts);
  const frame = frameOf(bytes);
  const length = bytes.length - (parts.at(-1)?.length ?? 0) - frame - 8;
  if (frame !== -1 && bytes.length >= frame + 8) bytes.writeUInt32LE(Math.max(0, length), frame + 4);
  return bytes;
}

export const GRAMMARS: readonly Grammar[] = [
  { format: 'jpeg', split: splitJpeg, join: joined, others: jpegParts(person) },
  { format: 'png', split: splitPng, join: joined, others: pngParts(person) },
  { format: 'gif', split: splitGif, join: joined, others: GIF_PARTS },
  { format: 'gif', split: splitGifBlocks, join: joined, others: [] },
  { format: 'webp', split: splitWebp, join: joinWebp, others: webpParts(person) },
  { format: 'webp', split: splitWebpFrame, join: joinWebpFrame, others: webpParts(person) },
];
