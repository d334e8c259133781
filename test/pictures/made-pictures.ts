import { readFileSync } from 'node:fs';
import { deflateSync } from 'node:zlib';
import sharp, { type JpegOptions, type Sharp } from 'sharp';
import { colourProfile, jpegSegment, pngChunk, pngProfile } from '../support/hostile-pictures.js';
import { randomNumbers } from '../support/random-numbers.js';
import { PERSON, personalExif, personalIptc, personalXmp } from './personal-data.js';

const WIDTH = 24;
const HEIGHT = 16;

/** A photograph made small, so that thousands of mutants are decoded in seconds. */
const photo = (): Sharp =>
  sharp(readFileSync('test/images/phone-photo.jpg')).resize(WIDTH, HEIGHT, { fit: 'fill' });

const frames = (count = 3): Sharp =>
  sharp(Buffer.concat(Array.from({ length: count }, (_, index) => noisyPixels(index))), {
    raw: { width: WIDTH, height: HEIGHT * count, channels: 4, pageHeight: HEIGHT },
  });

/** Pixels of few colours, some without opacity, other ones in each frame. */
function noisyPixels(seed: number): Buffer {
  const random = randomNumbers(seed + 1);
  return Buffer.concat(
    Array.from({ length: WIDTH * HEIGHT }, () =>
      Buffer.of(random(4) * 64, seed * 60, random(3) * 90, random(5) === 0 ? 0 : 255),
    ),
  );
}

// Colour profiles

const s15 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(Math.round(value * 0x10000));
  return bytes;
};
const uint16s = (...values: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 2);
  for (const [index, value] of values.entries()) bytes.writeUInt16BE(value, index * 2);
  return bytes;
};
const uint32s = (...values: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
};
const xyz = (...values: readonly number[]): Buffer =>
  Buffer.concat([Buffer.from('XYZ \0\0\0\0'), ...values.map(s15)]);
const curve = (...values: readonly number[]): Buffer =>
  Buffer.concat([Buffer.from('curv\0\0\0\0'), uint32s(values.length), uint16s(...values)]);
const parametric = (kind: number, ...values: readonly number[]): Buffer =>
  Buffer.concat([Buffer.from('para\0\0\0\0'), uint16s(kind, 0), ...values.map(s15)]);

/** Texts and tags of a display, with personal data. */
const personalTags = (): [string, Buffer][] => [
  ['desc', Buffer.from(`desc\0\0\0\0\0\0\0\x18${PERSON}\0\0\0\0\0\0\0\0\0\0`, 'latin1')],
  ['cprt', Buffer.from(`text\0\0\0\0${PERSON}\0`, 'latin1')],
  ['dmnd', Buffer.from(`text\0\0\0\0${PERSON}\0`, 'latin1')],
  ['mmod', Buffer.from(`mmod\0\0\0\0\0\0\x06\x10${PERSON}`, 'latin1')],
  ['vcgt', Buffer.from(`vcgt\0\0\0\0\0\0\0\x01${PERSON}`, 'latin1')],
];

function profile(spaces: string, version: number, tags: readonly [string, Buffer][]): Buffer {
  const all = [...tags, ...personalTags()];
  let at = 132 + all.length * 12;
  const table: Buffer[] = [];
  const data: Buffer[] = [];
  for (const [name, content] of all) {
    table.push(Buffer.concat([Buffer.from(name), uint32s(at, content.length)]));
    const padding = Buffer.alloc(-content.length & 3);
    data.push(content, padding);
    at += content.length + padding.length;
  }
  const header = Buffer.alloc(128);
  header.writeUInt32BE(at);
  header.write('lcms', 4);
  header.writeUInt32BE(version, 8);
  header.write(spaces, 12);
  header.set(uint16s(2025, 1, 2, 3, 4, 5), 24);
  header.write('acspAPPL', 36);
  header.write(PERSON, 48, 8, 'latin1');
  header.set(uint32s(0xf6d6, 0x10000, 0xd32d), 68);
  header.write(PERSON, 84, 'latin1');
  return Buffer.concat([header, uint32s(all.length), ...table, ...data]);
}

const D50 = xyz(0.9642, 1, 0.8249);
const adobeRgb = (): Buffer =>
  profile('mntrRGB XYZ ', 0x02100000, [
    ['wtpt', D50],
    ['rXYZ', xyz(0.60974, 0.31111, 0.01947)],
    ['gXYZ', xyz(0.20528, 0.62567, 0.06087)],
    ['bXYZ', xyz(0.14919, 0.06322, 0.74457)],
    ...['rTRC', 'gTRC', 'bTRC'].map((name): [string, Buffer] => [name, curve(0x0233)]),
  ]);
const parametricRgb = (): Buffer =>
  profile('mntrRGB XYZ ', 0x04300000, [
    ['wtpt', D50],
    [
      'chad',
      Buffer.concat([
        Buffer.from('sf32\0\0\0\0'),
        ...[1.0479, 0.0229, -0.0502, 0.0296, 0.9905, -0.0171, -0.0092, 0.0151, 0.7517].map(s15),
      ]),
    ],
    ['rXYZ', xyz(0.5151, 0.2412, -0.0011)],
    ['gXYZ', xyz(0.292, 0.6922, 0.0419)],
    ['bXYZ', xyz(0.1571, 0.0666, 0.7841)],
    ...['rTRC', 'gTRC', 'bTRC'].map((name): [string, Buffer] => [
      name,
      parametric(3, 2.4, 0.9479, 0.0521, 0.0774, 0.0405),
    ]),
  ]);
const sampledRgb = (): Buffer =>
  profile('mntrRGB XYZ ', 0x02100000, [
    ['wtpt', D50],
    ['rXYZ', xyz(0.4361, 0.2225, 0.0139)],
    ['gXYZ', xyz(0.3851, 0.7169, 0.0971)],
    ['bXYZ', xyz(0.1431, 0.0606, 0.7139)],
    ...['rTRC', 'gTRC', 'bTRC'].map((name, index): [string, Buffer] => [
      name,
      curve(...Array.from({ length: 64 }, (_, at) => Math.round(65_535 * (at / 63) ** (1.8 + index / 10)))),
    ]),
  ]);
const grey = (): Buffer =>
  profile('mntrGRAYXYZ ', 0x02100000, [
    ['wtpt', D50],
    ['kTRC', curve(0x0280)],
  ]);
/** A table of 3 × 3 × 3 colours to Lab, as scanners and printers have. */
const lutRgb = (type: 'mft1' | 'mft2' | 'mAB '): Buffer => {
  const points = 3;
  const table = Array.from({ length: points ** 3 }, (_, index) => {
    const [red, green, blue] = [Math.floor(index / 9), Math.floor(index / 3) % 3, index % 3].map(
      (value) => value / 2,
    ) as [number, number, number];
    return [0.2 * red + 0.7 * green + 0.1 * blue, 0.5 + (red - green) * 0.3, 0.5 + (green - blue) * 0.3];
  }).flat();
  const identity = [1, 0, 0, 0, 1, 0, 0, 0, 1].map(s15);
  const ramp = Array.from({ length: 256 }, (_, at) => at);
  const data = {
    mft1: (): Buffer =>
      Buffer.concat([
        Buffer.from('mft1\0\0\0\0'),
        Buffer.of(3, 3, points, 0),
        ...identity,
        Buffer.from([...ramp, ...ramp, ...ramp]),
        Buffer.from(table.map((value) => Math.round(value * 255))),
        Buffer.from([...ramp, ...ramp, ...ramp]),
      ]),
    mft2: (): Buffer =>
      Buffer.concat([
        Buffer.from('mft2\0\0\0\0'),
        Buffer.of(3, 3, points, 0),
        ...identity,
        uint16s(2, 2),
        uint16s(0, 65_535, 0, 65_535, 0, 65_535),
        uint16s(...table.map((value) => Math.round(value * 65_280))),
        uint16s(0, 65_535, 0, 65_535, 0, 65_535),
      ]),
    'mAB ': (): Buffer => {
      const curves = Buffer.concat(Array.from({ length: 3 }, () => parametric(0, 1)));
      const clut = Buffer.concat([
        Buffer.of(points, points, points),
        Buffer.alloc(13),
        Buffer.of(2, 0, 0, 0),
        uint16s(...table.map((value) => Math.round(value * 65_535))),
      ]);
      const clutPadded = Buffer.concat([clut, Buffer.alloc(-clut.length & 3)]);
      const b = 32;
      const matrix = b + curves.length;
      const m = matrix + 48;
      const grid = m + curves.length;
      const a = grid + clutPadded.length;
      return Buffer.concat([
        Buffer.from('mAB \0\0\0\0'),
        Buffer.of(3, 3, 0, 0),
        uint32s(b, matrix, m, grid, a),
        curves,
        ...identity,
        ...[0, 0, 0].map(s15),
        curves,
        clutPadded,
        curves,
      ]);
    },
  }[type]();
  return profile('scnrRGB Lab ', type === 'mAB ' ? 0x04300000 : 0x02100000, [
    ['wtpt', D50],
    ['A2B0', data],
  ]);
};

const PROFILES: Readonly<Record<string, () => Buffer>> = {
  'Adobe RGB': adobeRgb,
  'parametric curves': parametricRgb,
  'sampled curves': sampledRgb,
  'a table of 8 bits': () => lutRgb('mft1'),
  'a table of 16 bits': () => lutRgb('mft2'),
  'a table and curves': () => lutRgb('mAB '),
  'a display': () => colourProfile(personalTags()),
};

// JPEG

const withSegments = (picture: Buffer, ...segments: readonly Buffer[]): Buffer =>
  Buffer.concat([picture.subarray(0, 2), ...segments, picture.subarray(2)]);
const profileSegment = (icc: Buffer, index = 1, count = 1): Buffer =>
  jpegSegment(0xe2, Buffer.concat([Buffer.from('ICC_PROFILE\0'), Buffer.of(index, count), icc]));
const exifSegment = (order: 'II' | 'MM', orientation: number): Buffer =>
  jpegSegment(0xe1, Buffer.concat([Buffer.from('Exif\0\0'), personalExif(order, orientation)]));

async function jpegOfPhone(options: JpegOptions, orientation = 6): Promise<Buffer> {
  const plain = await photo().jpeg(options).toBuffer();
  const film = Buffer.concat([Buffer.from('\0\0\0\x18ftypmp42'), Buffer.from(PERSON)]);
  return Buffer.concat([
    withSegments(
      plain,
      exifSegment('II', orientation),
      jpegSegment(0xe1, Buffer.concat([Buffer.from('http://ns.adobe.com/xap/1.0/\0'), personalXmp()])),
      jpegSegment(0xed, personalIptc()),
      profileSegment(parametricRgb()),
      jpegSegment(0xfe, Buffer.from(PERSON)),
      jpegSegment(0xe5, Buffer.from(PERSON)),
    ),
    film,
  ]);
}

/** With lines counted behind the first scan, and none in the frame's header. */
async function jpegWithLinesLater(): Promise<Buffer> {
  const plain = await photo().jpeg({ mozjpeg: false }).toBuffer();
  plain.writeUInt16BE(0, plain.indexOf(Buffer.of(0xff, 0xc0)) + 5);
  return Buffer.concat([plain.subarray(0, -2), jpegSegment(0xdc, Buffer.of(0, HEIGHT)), plain.subarray(-2)]);
}

/** A profile in two segments. */
async function jpegOfTwoProfileParts(): Promise<Buffer> {
  const icc = sampledRgb();
  const half = icc.length >> 1;
  return withSegments(
    await photo().jpeg().toBuffer(),
    profileSegment(icc.subarray(0, half), 1, 2),
    profileSegment(icc.subarray(half), 2, 2),
  );
}

const JPEGS: Readonly<Record<string, () => Promise<Buffer>>> = {
  'of a phone': () => jpegOfPhone({}),
  'of a phone, progressive': () => jpegOfPhone({ progressive: true }),
  'full chroma': () => photo().jpeg({ chromaSubsampling: '4:4:4' }).toBuffer(),
  mozjpeg: () => photo().jpeg({ mozjpeg: true }).toBuffer(),
  grey: () => photo().greyscale().jpeg().toBuffer(),
  'grey with profile': async () =>
    withSegments(await photo().greyscale().jpeg().toBuffer(), profileSegment(grey())),
  'grey progressive': () => photo().greyscale().jpeg({ progressive: true }).toBuffer(),
  CMYK: () => photo().toColourspace('cmyk').jpeg().toBuffer(),
  'CMYK with profile': () => photo().withIccProfile('cmyk').jpeg().toBuffer(),
  P3: () => photo().withIccProfile('p3').jpeg().toBuffer(),
  sRGB: () => photo().withIccProfile('srgb').jpeg().toBuffer(),
  'lines later': jpegWithLinesLater,
  'profile in two parts': jpegOfTwoProfileParts,
  'one pixel': () => photo().resize(1, 1).jpeg().toBuffer(),
  ...Object.fromEntries(
    Object.entries(PROFILES).map(([name, make]) => [
      `with ${name}`,
      async (): Promise<Buffer> =>
        withSegments(await photo().jpeg({ quality: 95 }).toBuffer(), profileSegment(make())),
    ]),
  ),
  ...Object.fromEntries(
    [1, 2, 3, 4, 5, 6, 7, 8].map((orientation) => [
      `orientation ${orientation}`,
      async (): Promise<Buffer> =>
        withSegments(await photo().jpeg().toBuffer(), exifSegment('MM', orientation)),
    ]),
  ),
};

// PNG

type PngKind = { readonly type: number; readonly depth: number; readonly interlaced: boolean };

const SAMPLES = [1, 0, 3, 1, 2, 0, 4];
const PASSES = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

/** Random rows of every filter. */
function rows({ type, depth, interlaced }: PngKind, width: number, height: number): Buffer {
  const random = randomNumbers(type, depth, width);
  const row = (columns: number): Buffer => {
    const data = Buffer.alloc(1 + Math.ceil((columns * (SAMPLES[type] ?? 0) * depth) / 8));
    for (let at = 1; at < data.length; at += 1)
      data[at] = type === 3 && depth === 8 ? random(4) : random(256);
    data[0] = type === 3 ? 0 : random(5);
    return data;
  };
  const lines = (columns: number, count: number): Buffer[] =>
    columns === 0 ? [] : Array.from({ length: count }, () => row(columns));
  if (!interlaced) return Buffer.concat(lines(width, height));
  return Buffer.concat(
    PASSES.flatMap(([x, y, dx, dy]) => lines(Math.ceil((width - x) / dx), Math.ceil((height - y) / dy))),
  );
}

function pngOf(
  kind: PngKind,
  {
    before = [],
    behind = [],
    tail = Buffer.alloc(0),
  }: { before?: readonly Buffer[]; behind?: readonly Buffer[]; tail?: Buffer } = {},
): Buffer {
  const header = Buffer.concat([
    uint32s(WIDTH, HEIGHT),
    Buffer.of(kind.depth, kind.type, 0, 0, kind.interlaced ? 1 : 0),
  ]);
  const data = deflateSync(rows(kind, WIDTH, HEIGHT));
  const half = data.length >> 1;
  const random = randomNumbers(kind.depth);
  const palette = Buffer.from(Array.from({ length: 3 * 2 ** kind.depth }, () => random(256)));
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    pngChunk('IHDR', header),
    ...(kind.type === 3 ? [pngChunk('PLTE', palette)] : []),
    ...before,
    pngChunk('IDAT', data.subarray(0, half)),
    pngChunk('IDAT', data.subarray(half)),
    ...behind,
    pngChunk('IEND'),
    tail,
  ]);
}

const text = (value: string): Buffer => Buffer.from(value, 'latin1');
const pngTexts = (): Buffer[] => [
  pngChunk('tEXt', text(`Author\0${PERSON}`)),
  pngChunk('zTXt', Buffer.concat([text('Comment\0\0'), deflateSync(text(PERSON))])),
  pngChunk('iTXt', Buffer.concat([text('XML:com.adobe.xmp\0\0\0\0\0'), personalXmp()])),
  pngChunk('eXIf', personalExif('MM', 6)),
  pngChunk('tIME', Buffer.of(0x07, 0xe9, 1, 2, 3, 4, 5)),
];
const COLOUR = { type: 2, depth: 8, interlaced: false };

const KINDS: readonly PngKind[] = [
  [0, 1],
  [0, 2],
  [0, 4],
  [0, 8],
  [0, 16],
  [2, 8],
  [2, 16],
  [3, 1],
  [3, 2],
  [3, 4],
  [3, 8],
  [4, 8],
  [4, 16],
  [6, 8],
  [6, 16],
].flatMap(([type = 0, depth = 0]) => [false, true].map((interlaced) => ({ type, depth, interlaced })));

/** An animation of a whole frame and two smaller ones, with every way to dispose and blend. */
function animatedPng(firstIsFrame: boolean): Buffer {
  const kind = { type: 6, depth: 8, interlaced: false };
  let sequence = 0;
  const control = (
    width: number,
    height: number,
    left: number,
    top: number,
    dispose: number,
    blend: number,
  ): Buffer =>
    pngChunk(
      'fcTL',
      Buffer.concat([
        uint32s(sequence++, width, height, left, top),
        uint16s(3 + sequence, 100),
        Buffer.of(dispose, blend),
      ]),
    );
  const data = (width: number, height: number): Buffer =>
    pngChunk('fdAT', Buffer.concat([uint32s(sequence++), deflateSync(rows(kind, width, height))]));
  const first = firstIsFrame ? [control(WIDTH, HEIGHT, 0, 0, 0, 0)] : [];
  const more = [
    [10, 9, 3, 2, 1, 1],
    [WIDTH, HEIGHT, 0, 0, 2, 0],
    [5, 5, 12, 8, 0, 1],
  ].flatMap(([width = 1, height = 1, left = 0, top = 0, dispose = 0, blend = 0]) => [
    control(width, height, left, top, dispose, blend),
    data(width, height),
  ]);
  return pngOf(kind, {
    before: [pngChunk('acTL', uint32s(firstIsFrame ? 4 : 3, 2)), ...first],
    behind: more,
  });
}

const PNGS: Readonly<Record<string, () => Buffer | Promise<Buffer>>> = {
  ...Object.fromEntries(
    KINDS.map((kind) => [
      `colour type ${kind.type}, ${kind.depth} bits${kind.interlaced ? ', interlaced' : ''}`,
      (): Buffer => pngOf(kind),
    ]),
  ),
  'grey with a transparent shade': () =>
    pngOf({ type: 0, depth: 8, interlaced: false }, { before: [pngChunk('tRNS', uint16s(7))] }),
  'two bits with a transparent shade': () =>
    pngOf({ type: 0, depth: 2, interlaced: false }, { before: [pngChunk('tRNS', uint16s(1))] }),
  'a transparent colour': () => pngOf(COLOUR, { before: [pngChunk('tRNS', uint16s(1, 2, 3))] }),
  'sixteen bits with a transparent colour': () =>
    pngOf({ type: 2, depth: 16, interlaced: false }, { before: [pngChunk('tRNS', uint16s(1, 2, 3))] }),
  'palette with transparency': () =>
    pngOf(
      { type: 3, depth: 4, interlaced: false },
      { before: [pngChunk('tRNS', Buffer.of(0, 99, 255, 180))] },
    ),
  'with metadata': () =>
    pngOf(COLOUR, { before: pngTexts(), behind: pngTexts().slice(0, 3), tail: text(PERSON) }),
  'with gamma and primaries': () =>
    pngOf(COLOUR, {
      before: [
        pngChunk('gAMA', uint32s(60_000)),
        pngChunk('cHRM', uint32s(31_270, 32_900, 70_000, 30_000, 20_000, 70_000, 15_000, 6000)),
        pngChunk('sBIT', Buffer.of(5, 6, 5)),
        pngChunk('bKGD', uint16s(0, 128, 255)),
        pngChunk('pHYs', Buffer.concat([uint32s(2835, 5670), Buffer.of(1)])),
      ],
    }),
  'with a code of colours': () => pngOf(COLOUR, { before: [pngChunk('cICP', Buffer.of(12, 13, 0, 1))] }),
  'with a grey profile': () =>
    pngOf({ type: 0, depth: 8, interlaced: false }, { before: [pngProfile(grey())] }),
  animated: () => animatedPng(true),
  'animated behind a picture': () => animatedPng(false),
  'of libvips': () => photo().png().toBuffer(),
  'of libvips, palette': () => photo().ensureAlpha(0.5).png({ palette: true, colours: 16 }).toBuffer(),
  ...Object.fromEntries(
    Object.entries(PROFILES).map(([name, make]) => [
      `with ${name}`,
      (): Buffer => pngOf(COLOUR, { before: [pngProfile(make())] }),
    ]),
  ),
};

// GIF

/** The animation with other ways to dispose, and other delays in hundredths of a second, for its frames in turn. */
async function gifOf(disposals: readonly number[], delays: readonly number[]): Promise<Buffer> {
  const bytes = await frames()
    .gif({ loop: 3, delay: [50, 60, 70] })
    .toBuffer();
  const control = Buffer.of(0x21, 0xf9, 4);
  let frame = 0;
  for (let at = bytes.indexOf(control); at !== -1; at = bytes.indexOf(control, at + 8)) {
    bytes[at + 3] = ((bytes[at + 3] ?? 0) & 0xe3) | ((disposals[frame % disposals.length] ?? 0) << 2);
    bytes.writeUInt16LE(delays[frame % delays.length] ?? 0, at + 4);
    frame += 1;
  }
  return bytes;
}

const withGifBlocks = (bytes: Buffer, ...blocks: readonly string[]): Buffer => {
  const palette = 13 + 3 * 2 ** (((bytes[10] ?? 0) & 0x07) + 1);
  return Buffer.concat([
    bytes.subarray(0, palette),
    ...blocks.map((block) => text(block)),
    bytes.subarray(palette),
  ]);
};

const GIFS: Readonly<Record<string, () => Promise<Buffer>>> = {
  'one frame': () => photo().gif().toBuffer(),
  transparent: () => frames(1).gif().toBuffer(),
  animated: () => gifOf([0], [5, 6, 7]),
  'animated for ever': () =>
    frames()
      .gif({ loop: 0, delay: [50, 60, 70] })
      .toBuffer(),
  'animated once': () =>
    frames()
      .gif({ loop: 1, delay: [50, 60, 70] })
      .toBuffer(),
  'animated, restored to the background': () => gifOf([2], [9]),
  'animated, restored to the frame before': () => gifOf([1, 3], [1, 2]),
  'animated, odd disposals': () => gifOf([4, 5, 7], [0]),
  'animated, no delays': () => gifOf([0], [0]),
  'with metadata': async () =>
    Buffer.concat([
      withGifBlocks(
        await frames(2).gif().toBuffer(),
        `\x21\xfe${String.fromCharCode(PERSON.length)}${PERSON}\0`,
        `\x21\xff\x0bXMP DataXMP${String.fromCharCode(personalXmp().length)}${personalXmp().toString('latin1')}\0`,
      ),
      text(PERSON),
    ]),
};

// WebP

/** Plants a person into a WebP of libvips, which writes the chunks of metadata. */
const told = (image: Sharp, orientation = 1): Sharp =>
  image
    .withXmp(personalXmp().toString('latin1'))
    .withExif({ IFD0: { Artist: PERSON, Orientation: String(orientation) } });

const WEBPS: Readonly<Record<string, () => Promise<Buffer>>> = {
  lossy: () => photo().webp().toBuffer(),
  lossless: () => photo().webp({ lossless: true }).toBuffer(),
  'lossy with transparency': () => frames(1).webp().toBuffer(),
  'lossless with transparency': () => frames(1).webp({ lossless: true }).toBuffer(),
  'transparency not compressed': () => frames(1).webp({ alphaQuality: 30, effort: 0 }).toBuffer(),
  'with metadata': () => told(photo()).webp().toBuffer(),
  'with P3': () => told(photo().withIccProfile('p3')).webp().toBuffer(),
  animated: () =>
    frames()
      .webp({ loop: 2, delay: [50, 60, 70] })
      .toBuffer(),
  'animated lossless': () =>
    frames()
      .webp({ lossless: true, loop: 0, delay: [0, 10, 70] })
      .toBuffer(),
  'animated mixed': () => told(frames()).webp({ mixed: true, minSize: true }).toBuffer(),
  ...Object.fromEntries(
    [1, 2, 3, 4, 5, 6, 7, 8].map((orientation) => [
      `orientation ${orientation}`,
      (): Promise<Buffer> => photo().withMetadata({ orientation }).webp().toBuffer(),
    ]),
  ),
};

/** Small pictures of every kind, made for these tests: the name ends in the format. */
export async function madePictures(): Promise<{ name: string; bytes: Buffer }[]> {
  const kinds = { jpeg: JPEGS, png: PNGS, gif: GIFS, webp: WEBPS };
  const made = Object.entries(kinds).flatMap(([format, pictures]) =>
    Object.entries(pictures).map(async ([name, make]) => ({
      name: `${name}.${format}`,
      bytes: await make(),
    })),
  );
  return Promise.all(made);
}
