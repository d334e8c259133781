import { crc32, deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { MAX_FILE_BYTES } from '../../src/uploads/upload-limits.js';

/** The largest size of a picture. */
const FIFTY_MEGAPIXELS = { width: 10_000, height: 5_000 };

type Size = { readonly width: number; readonly height: number };

/** Repeats a piece as often as it fits. */
export const filled = (piece: Buffer | string, bytes: number): Buffer =>
  Buffer.alloc(Math.floor(bytes / piece.length) * piece.length, piece, 'latin1');

export function noise(width: number, height: number, sigma = 12): Sharp {
  const grain = { type: 'gaussian', mean: 128, sigma } as const;
  return sharp({ create: { width, height, channels: 3, background: 'grey', noise: grain } });
}

/** A JPEG with as many pieces after its start as fit. */
export async function jpegWith(piece: readonly number[], bytes = MAX_FILE_BYTES): Promise<Buffer> {
  const picture = await noise(64, 48).jpeg().toBuffer();
  const pieces = filled(Buffer.from(piece), bytes - picture.length);
  return Buffer.concat([picture.subarray(0, 2), pieces, picture.subarray(2)]);
}

/** A JPEG of so many flat blocks in each direction, with a restart marker after each block. */
export async function jpegOfRestarts(blocks: number): Promise<Buffer> {
  const one = await sharp(Buffer.alloc(64, 60), { raw: { width: 8, height: 8, channels: 1 } })
    .toColourspace('b-w')
    .jpeg()
    .toBuffer();
  const frame = one.indexOf(Buffer.of(0xff, 0xc0));
  one.writeUInt16BE(blocks * 8, frame + 5);
  one.writeUInt16BE(blocks * 8, frame + 7);
  const scan = one.indexOf(Buffer.of(0xff, 0xda));
  const codes = scan + 2 + one.readUInt16BE(scan + 2);
  const block = one.subarray(codes, -2);
  const eight = Buffer.concat(
    Array.from({ length: 8 }, (_, index) => [block, Buffer.of(0xff, 0xd0 + index)]).flat(),
  );
  const all = Buffer.alloc(blocks ** 2 * (block.length + 2), eight).subarray(0, -2);
  const everyBlock = Buffer.of(0xff, 0xdd, 0, 4, 0, 1);
  return Buffer.concat([
    one.subarray(0, scan),
    everyBlock,
    one.subarray(scan, codes),
    all,
    Buffer.of(0xff, 0xd9),
  ]);
}

export function jpegSegment(marker: number, data: readonly number[] | Buffer): Buffer {
  return Buffer.concat([
    Buffer.of(0xff, marker, (data.length + 2) >> 8, (data.length + 2) & 0xff),
    Buffer.from(data),
  ]);
}

/** A scan of a progressive JPEG: components, coefficients, and the bits before (`high`) and after (`low`) it. */
type Scan = {
  readonly components: readonly number[];
  readonly first: number;
  readonly last: number;
  readonly high: number;
  readonly low: number;
};

const COMPONENTS = [0, 1, 2];
const PROGRESSIVE = 0xc2;
const PROGRESSIVE_ARITHMETIC = 0xca;

/** The scans that refine a band of coefficients bit by bit. */
const bitByBit = (component: number, first: number, last: number, bits: number): Scan[] =>
  Array.from({ length: bits }, (_, index) => {
    const low = bits - 1 - index;
    return { components: [component], first, last, high: index === 0 ? 0 : low + 1, low };
  });

/** All 2,647 scans that a progressive JPEG of three components can have. */
const everyScan = (): Scan[] => [
  { components: COMPONENTS, first: 0, last: 0, high: 0, low: 0 },
  ...COMPONENTS.flatMap((component) =>
    Array.from({ length: 63 }, (_, index) => bitByBit(component, index + 1, index + 1, 14)).flat(),
  ),
];

/** A valid JPEG of these scans, which add nothing to any block. */
function progressiveJpeg({ width, height }: Size, scans: readonly Scan[], frame = PROGRESSIVE): Buffer {
  const blocks = Math.ceil(width / 8) * Math.ceil(height / 8);
  // Arithmetic coding continues with zeros after the end of the data.
  const zeros = Buffer.alloc(frame === PROGRESSIVE ? blocks : 2);
  // The only code has one bit, and 14 bits for the number of blocks above 16,384.
  const run = '011011101110111';
  const runs = bytesOfBits(run.repeat(Math.ceil(blocks / (16_384 + parseInt(run, 2)))));
  return Buffer.concat([
    Buffer.of(0xff, 0xd8),
    jpegSegment(0xdb, [0, ...Array<number>(64).fill(1)]),
    jpegSegment(frame, [
      ...[8, height >> 8, height & 0xff, width >> 8, width & 0xff, COMPONENTS.length],
      ...COMPONENTS.flatMap((component) => [component + 1, 0x11, 0]),
    ]),
    jpegSegment(0xc4, [0x00, 1, ...Array<number>(15).fill(0), 0x00]),
    jpegSegment(0xc4, [0x10, 1, ...Array<number>(15).fill(0), 0xe0]),
    ...scans.flatMap(({ components, first, last, high, low }) => [
      jpegSegment(0xda, [
        components.length,
        ...components.flatMap((component) => [component + 1, 0]),
        ...[first, last, (high << 4) | low],
      ]),
      first === 0 ? zeros.subarray(0, Math.ceil((blocks * components.length) / 8)) : runs,
    ]),
    Buffer.of(0xff, 0xd9),
  ]);
}

/** A valid progressive JPEG of nearly empty scans. 100 kB with 2,647 scans of 8 megapixels take seconds to decode. */
export const jpegOfScans = (size: Size, scans = 2647): Buffer =>
  progressiveJpeg(size, everyScan().slice(0, scans));

/** A JPEG whose scans refine every coefficient so many times. */
export const jpegOfPasses = (size: Size, passes: number): Buffer =>
  progressiveJpeg(size, [
    { components: COMPONENTS, first: 0, last: 0, high: 0, low: 0 },
    ...COMPONENTS.flatMap((component) => bitByBit(component, 1, 63, passes)),
  ]);

/** A JPEG with arithmetic coding, which browsers and phones do not show: 300 bytes give any number of pixels. */
export const arithmeticJpeg = (size: Size): Buffer => {
  const [scan] = everyScan();
  return progressiveJpeg(size, scan ? [scan] : [], PROGRESSIVE_ARITHMETIC);
};

/** The picture with segments after its start. */
export const jpegWithSegments = (picture: Buffer, ...segments: readonly Buffer[]): Buffer =>
  Buffer.concat([picture.subarray(0, 2), ...segments, picture.subarray(2)]);

/**
 * The slowest accepted JPEG: 50 megapixels without subsampling, with as many scans and refined coefficients as
 * allowed. Its Adobe segment makes the decoder complain.
 */
export function worstAcceptedJpeg(): Buffer {
  const scans = [
    { components: COMPONENTS, first: 0, last: 0, high: 0, low: 0 },
    ...COMPONENTS.flatMap((component) => bitByBit(component, 2, 63, 4)),
    ...COMPONENTS.flatMap((component) => bitByBit(component, 1, 1, 14)),
  ];
  const adobe = jpegSegment(0xee, Buffer.from('Adobe\0\x64\0\0\0\0\x07', 'latin1'));
  return jpegWithSegments(progressiveJpeg(FIFTY_MEGAPIXELS, scans.slice(0, 32)), adobe);
}

/** Ones and zeros as bytes, the highest bit first. */
const bytesOfBits = (text: string): Buffer =>
  Buffer.from((text.match(/.{1,8}/g) ?? []).map((byte) => parseInt(byte.padEnd(8, '0'), 2)));

/**
 * A colour profile with multi-process elements: so many equal steps, each a curve of so many pieces for red, green and
 * blue. All steps point to the same bytes.
 */
export function multiProcessProfile(steps: number, pieces = 1): Buffer {
  const float = (value: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeFloatBE(value);
    return bytes;
  };
  const piece = Buffer.concat([Buffer.from('parf'), uint32(0, 0), ...[1, 1, 0, 0].map(float)]);
  const curve = Buffer.concat([
    Buffer.from('curf'),
    uint32(0, pieces * 0x10000),
    ...Array.from({ length: pieces - 1 }, (_, index) => float(index - 1e6)),
    filled(piece, pieces * piece.length),
  ]);
  const step = Buffer.concat([
    Buffer.from('cvst'),
    uint32(0, 0x30003, ...[36, curve.length, 36, curve.length, 36, curve.length]),
    curve,
  ]);
  const place = uint32(16 + steps * 8, step.length);
  const elements = Buffer.concat([
    Buffer.from('mpet'),
    uint32(0, 0x30003, steps),
    filled(place, steps * place.length),
    step,
  ]);
  return colourProfile([['D2B0', elements]]);
}

function uint32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
}

/** Wide primaries and a gamma of 2: the tags with which decoders compute colours. */
function wideGamut(): [name: string, data: Buffer][] {
  const xyz = (...values: readonly number[]): Buffer =>
    Buffer.concat([Buffer.from('XYZ '), uint32(0, ...values.map((value) => value * 0x10000))]);
  const gamma = Buffer.concat([Buffer.from('curv'), uint32(0, 1, 0x02000000)]);
  return [
    ['wtpt', xyz(0.9642, 1, 0.8249)],
    ['rXYZ', xyz(0.4, 0.2, 0.01)],
    ['gXYZ', xyz(0.4, 0.7, 0.1)],
    ['bXYZ', xyz(0.15, 0.07, 0.7)],
    ['rTRC', gamma],
    ['gTRC', gamma],
    ['bTRC', gamma],
  ];
}

/**
 * A colour profile of a display with wide primaries, and with other tags.
 *
 * @param others a text as data stands for the data of the tag of that name
 */
export function colourProfile(others: readonly (readonly [name: string, data: Buffer | string])[]): Buffer {
  const tags = [...wideGamut(), ...others];
  const places = new Map<string, readonly [at: number, length: number]>();
  const data: Buffer[] = [];
  let at = 132 + tags.length * 12;
  const table = tags.map(([name, content]) => {
    const place =
      typeof content === 'string' ? (places.get(content) ?? [0, 0]) : ([at, content.length] as const);
    if (typeof content !== 'string') {
      const padding = Buffer.alloc(-content.length & 3);
      data.push(content, padding);
      at += content.length + padding.length;
    }
    places.set(name, place);
    return Buffer.concat([Buffer.from(name), uint32(...place)]);
  });
  const header = Buffer.alloc(128);
  header.write('mntrRGB XYZ ', 12);
  header.write('acsp', 36);
  header.set(uint32(at), 0);
  header.set(uint32(0x04300000), 8);
  header.set(uint32(0xf6d6, 0x10000, 0xd32d), 68);
  return Buffer.concat([header, uint32(tags.length), ...table, ...data]);
}

export function pngChunk(type: string, data: Buffer = Buffer.alloc(0)): Buffer {
  const chunk = Buffer.alloc(data.length + 12);
  chunk.writeUInt32BE(data.length);
  chunk.write(type, 4, 'latin1');
  chunk.set(data, 8);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, data.length + 8)), data.length + 8);
  return chunk;
}

type PngOptions = {
  /** Other chunks, before and after the data. */
  readonly before?: Buffer;
  readonly after?: Buffer;
  readonly interlaced?: boolean;
  /** 0 for none, 4 for Paeth, which is the slowest. */
  readonly filter?: number;
  /** The number of data bytes in each chunk. */
  readonly pieces?: number;
};

/** A PNG of red, green, blue and alpha, black unless filtered. */
export function png(
  { width, height, depth }: Size & { readonly depth: 8 | 16 },
  { before, after, interlaced = false, filter = 0, pieces = Infinity }: PngOptions = {},
): Buffer {
  const data = deflateSync(pngRows({ width, height, depth }, interlaced, filter), { level: 1 });
  const chunks =
    pieces >= data.length
      ? [pngChunk('IDAT', data)]
      : Array.from({ length: Math.ceil(data.length / pieces) }, (_, index) =>
          pngChunk('IDAT', data.subarray(index * pieces, (index + 1) * pieces)),
        );
  return Buffer.concat([
    pngStart({ width, height, depth }, interlaced),
    before ?? Buffer.alloc(0),
    ...chunks,
    after ?? Buffer.alloc(0),
    pngChunk('IEND'),
  ]);
}

function pngStart({ width, height, depth }: Size & { readonly depth: number }, interlaced: boolean): Buffer {
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, depth, 6, 0, 0, interlaced ? 1 : 0]);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), pngChunk('IHDR', header)]);
}

function pngRows(
  { width, height, depth }: Size & { readonly depth: number },
  interlaced: boolean,
  filter: number,
): Buffer {
  // The first pixel of each pass of Adam7, and the distance of its pixels.
  const passes = [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
  ] as const;
  const rows = (columns: number, lines: number): Buffer => {
    const row = Buffer.alloc(1 + (columns * depth) / 2, filter === 0 ? 0 : '\x01\x02\x03\x04\x05');
    row[0] = filter;
    return columns === 0 ? Buffer.alloc(0) : Buffer.alloc(lines * row.length, row);
  };
  if (!interlaced) return rows(width, height);
  return Buffer.concat(
    passes.map(([x, y, dx, dy]) => rows(Math.ceil((width - x) / dx), Math.ceil((height - y) / dy))),
  );
}

/** An iCCP chunk. */
export const pngProfile = (profile: Buffer): Buffer =>
  pngChunk('iCCP', Buffer.concat([Buffer.from('icc\0\0'), deflateSync(profile)]));

/** An animated PNG whose frames have the size of the picture. */
export function animatedPng({ width, height }: Size, frames: number): Buffer {
  const data = deflateSync(pngRows({ width, height, depth: 8 }, false, 0));
  const uint32 = (value: number): Buffer => Buffer.of(value >>> 24, value >>> 16, value >>> 8, value);
  const frame = (index: number): Buffer[] => [
    pngChunk('fcTL', Buffer.concat([uint32(index * 2), uint32(width), uint32(height), Buffer.alloc(14)])),
    pngChunk('fdAT', Buffer.concat([uint32(index * 2 + 1), data])),
  ];
  return Buffer.concat([
    pngStart({ width, height, depth: 8 }, false),
    pngChunk('acTL', Buffer.concat([uint32(frames), uint32(0)])),
    pngChunk('IDAT', data),
    ...Array.from({ length: frames }, (_, index) => frame(index)).flat(),
    pngChunk('IEND'),
  ]);
}

/** The slowest accepted PNG: the largest interlaced size, with every row filtered. */
export async function worstAcceptedPng(): Promise<Buffer> {
  const wide = await noise(8, 8).withIccProfile('p3').png().toBuffer();
  const { icc } = await sharp(wide).metadata();
  if (!icc) throw new Error('No profile was written.');
  return png(
    { width: 8000, height: 4190, depth: 16 },
    { before: pngProfile(icc), interlaced: true, filter: 4 },
  );
}

/** A GIF whose screen and frames have the same size. The LZW data is in sub-blocks. */
export const gif = (side: number, frame: Buffer, frames: number): Buffer =>
  gifOfFrames({ width: side, height: side }, { width: side, height: side }, frame, frames);

/** A GIF of so many equal frames on any screen. The LZW data is in sub-blocks. */
export function gifOfFrames(screen: Size, frame: Size, data: Buffer, frames: number): Buffer {
  const uint16s = ({ width, height }: Size): Buffer =>
    Buffer.of(width & 0xff, width >> 8, height & 0xff, height >> 8);
  const image = Buffer.concat([
    Buffer.of(0x2c, 0, 0, 0, 0),
    uint16s(frame),
    Buffer.of(0),
    data,
    Buffer.of(0),
  ]);
  return Buffer.concat([
    Buffer.from('GIF89a'),
    uint16s(screen),
    Buffer.from([0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff]),
    filled(image, image.length * frames),
    Buffer.of(0x3b),
  ]);
}

/** LZW data of a single colour in the fewest codes: each code draws a pixel more than the previous code. */
export function flatGifData(pixels: number): Buffer {
  const clear = 4;
  const codes: [code: number, width: number][] = [[clear, 3]];
  let width = 3;
  let next = clear + 2;
  for (let left = pixels, length = 1; left > 0; left -= length) {
    if (left === pixels) codes.push([0, width]);
    else {
      codes.push([Math.min(next, 4095), width]);
      if (next < 4096) {
        length += 1;
        next += 1;
        if (next === 1 << width && width < 12) width += 1;
      }
    }
  }
  codes.push([clear + 1, width]);
  return gifData(codes);
}

/** LZW data of so many clear codes, and a pixel. */
export const gifDataOfClearCodes = (count: number): Buffer =>
  gifData([...Array<[number, number]>(count).fill([4, 3]), [0, 3], [5, 3]]);

/** LZW codes of a code size of two, in sub-blocks. */
function gifData(codes: readonly (readonly [code: number, width: number])[]): Buffer {
  const packed = new BitWriter();
  for (const [code, width] of codes) packed.write(code, width);
  const data = packed.toBuffer();
  const blocks = Array.from({ length: Math.ceil(data.length / 255) }, (_, index) => {
    const block = data.subarray(index * 255, index * 255 + 255);
    return [Buffer.of(block.length), block];
  });
  return Buffer.concat([Buffer.of(2), ...blocks.flat()]);
}

/** Writes numbers of any number of bits, the lowest bit first. */
class BitWriter {
  readonly #bytes: number[] = [];
  #bits = 0;

  write(value: number, width: number): void {
    for (let bit = 0; bit < width; bit += 1, this.#bits += 1) {
      const at = this.#bits >> 3;
      this.#bytes[at] = (this.#bytes[at] ?? 0) | (((value >> bit) & 1) << (this.#bits & 7));
    }
  }

  toBuffer(): Buffer {
    return Buffer.from(this.#bytes);
  }
}

/** The slowest accepted GIFs: a single frame, and the largest number of frames. */
export const worstAcceptedGif = (): Buffer =>
  gifOfFrames(FIFTY_MEGAPIXELS, FIFTY_MEGAPIXELS, flatGifData(50_000_000), 1);
export const worstAcceptedGifAnimation = (): Buffer => {
  const size = { width: 30, height: 1660 };
  return gifOfFrames(size, size, flatGifData(size.width * size.height), 1000);
};

/** LZW data in sub-blocks of one byte: codes of a pixel each, with some clear codes. */
export function singleByteBlocks(pixels: number): Buffer {
  const codes = Buffer.concat([Buffer.of(0x80), Buffer.alloc(120)]);
  const data = Buffer.concat([filled(codes, Math.ceil(pixels / 120) * codes.length), Buffer.of(0x81)]);
  const blocks = Buffer.alloc(data.length * 2, 1);
  for (const [index, code] of data.entries()) blocks[index * 2 + 1] = code;
  return Buffer.concat([Buffer.of(7), blocks]);
}

export function webpChunk(type: string, data: Buffer): Buffer {
  const chunk = Buffer.alloc(8 + data.length + (data.length % 2));
  chunk.write(type, 'latin1');
  chunk.writeUInt32LE(data.length, 4);
  chunk.set(data, 8);
  return chunk;
}

/** The image chunk of a WebP of one pixel. */
export async function webpPixel(): Promise<Buffer> {
  return (await noise(1, 1).webp({ lossless: true }).toBuffer()).subarray(12);
}

/** A WebP of one pixel with these chunks. */
export function webp(flags: number, chunks: Buffer): Buffer {
  const all = Buffer.concat([
    Buffer.from('WEBP'),
    webpChunk('VP8X', Buffer.alloc(10).fill(flags, 0, 1)),
    chunks,
  ]);
  return webpChunk('RIFF', all);
}

/** An animated WebP of equal frames with the size of its canvas. */
export function animatedWebp({ width, height }: Size, image: Buffer, frames: number): Buffer {
  const features = Buffer.alloc(10).fill(0x12, 0, 1);
  features.writeUIntLE(width - 1, 4, 3);
  features.writeUIntLE(height - 1, 7, 3);
  const frame = Buffer.alloc(16);
  features.copy(frame, 6, 4);
  const piece = webpChunk('ANMF', Buffer.concat([frame, image]));
  return webpChunk(
    'RIFF',
    Buffer.concat([
      Buffer.from('WEBP'),
      webpChunk('VP8X', features),
      webpChunk('ANIM', Buffer.alloc(6)),
      filled(piece, piece.length * frames),
    ]),
  );
}

/** A WebP with only an image chunk. */
export const plainWebp = (image: Buffer): Buffer =>
  webpChunk('RIFF', Buffer.concat([Buffer.from('WEBP'), image]));

/**
 * The chunk of a lossless picture of a single colour, with so many groups of prefix codes. Each has 20 bits, and pixels take
 * none.
 *
 * @param block a pixel of the group map stands for 2 to the power of `block` pixels in each direction: 2 to 9
 */
export function losslessWebp(size: Size, { groups = 1, block = 2, transformed = false } = {}): Buffer {
  const bits = new BitWriter();
  bits.write(0x2f, 8);
  bits.write(size.width - 1, 14);
  bits.write(size.height - 1, 14);
  bits.write(1, 4); // with transparency, version 0
  writeLossless(bits, size, { groups, block, transformed });
  return webpChunk('VP8L', bits.toBuffer());
}

/** Two chunks: transparency in lossless data, as above, and its picture. */
export async function losslessAlphaWebp(size: Size, groups: number): Promise<Buffer> {
  const bits = new BitWriter();
  bits.write(1, 8);
  writeLossless(bits, size, { groups, block: 2, transformed: false });
  const picture = await noise(size.width, size.height, 0).webp().toBuffer();
  return Buffer.concat([webpChunk('ALPH', bits.toBuffer()), picture.subarray(12)]);
}

function writeLossless(
  bits: BitWriter,
  { width, height }: Size,
  { groups, block, transformed }: { groups: number; block: number; transformed: boolean },
): void {
  const single = (symbol: number): void => {
    bits.write(0b101, 3);
    bits.write(symbol, 8);
  };
  if (transformed) {
    const PREDICTOR = 0;
    const COLOUR = 1;
    for (const transform of [PREDICTOR, COLOUR]) {
      bits.write(1 | (transform << 1), 3);
      bits.write(0, 4); // blocks of four, no cache
      for (const symbol of [transform === PREDICTOR ? 13 : 77, 33, 99, 0, 0]) single(symbol);
    }
    const GREEN = 2;
    bits.write(1 | (GREEN << 1), 3);
  }
  bits.write(0, 2); // no further transform, no cache
  bits.write(groups > 1 ? 1 : 0, 1);
  if (groups > 1) {
    bits.write(block - 2, 3);
    bits.write(0, 1);
    // Each of 256 values has a code of eight bits. Their lengths are a single symbol, which takes no bits.
    const bytes = (isGreen: boolean): void => {
      bits.write(0, 1);
      bits.write(8, 4);
      for (let index = 0; index < 12; index += 1) bits.write(index === 11 ? 1 : 0, 3);
      bits.write(isGreen ? 0b11111110_011_1 : 0, isGreen ? 12 : 1);
    };
    bytes(true);
    bytes(false);
    for (const symbol of [0, 0, 0]) single(symbol);
    // The highest bit of a code comes first.
    const byte = (value: number): void => {
      for (let bit = 7; bit >= 0; bit -= 1) bits.write((value >> bit) & 1, 1);
    };
    const places = Math.ceil(width / 2 ** block) * Math.ceil(height / 2 ** block);
    for (let place = 0; place < places; place += 1) {
      const group = place < groups ? groups - 1 - place : place % groups;
      byte(group & 0xff);
      byte(group >> 8);
    }
  }
  // Simple codes of the symbol 0.
  for (let code = 0; code < groups * 5; code += 1) bits.write(0b0001, 4);
  bits.write(0, 32);
}

/** The slowest accepted WebP pictures: lossless, lossy, and an animation. */
export const worstAcceptedWebp = (): Buffer =>
  plainWebp(losslessWebp(FIFTY_MEGAPIXELS, { groups: 16_384, block: 2, transformed: true }));
export const worstAcceptedLossyWebp = (): Promise<Buffer> =>
  noise(FIFTY_MEGAPIXELS.width, FIFTY_MEGAPIXELS.height, 30)
    .ensureAlpha(0.5)
    .webp({ quality: 25, effort: 0 })
    .toBuffer();
export const worstAcceptedWebpAnimation = (): Buffer => {
  const size = { width: 30, height: 1660 };
  return animatedWebp(size, losslessWebp(size, { groups: 16, transformed: true }), 1000);
};
