import { describe, expect, it } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import sharp, { type Sharp } from 'sharp';
import {
  animatedPng,
  animatedWebp,
  arithmeticJpeg,
  filled,
  flatGifData,
  gif,
  gifDataOfClearCodes,
  gifOfFrames,
  jpegOfPasses,
  jpegOfScans,
  jpegSegment,
  jpegWithSegments,
  losslessAlphaWebp,
  losslessWebp,
  multiProcessProfile,
  noise,
  plainWebp,
  png,
  pngChunk,
  pngProfile,
  singleByteBlocks,
  webp,
  webpChunk,
  webpPixel,
} from '../../../test/support/hostile-pictures.js';
import type { ImageFormat } from '../image-format.js';
import { ImageLimitError, withoutMetadata } from '../image-metadata.js';
import { IMAGE_LIMITS } from './image-limits.js';

type Made = Buffer | Promise<Buffer>;
type Case = {
  readonly format: ImageFormat;
  /** A part of the error sentence. */
  readonly told: string;
  readonly refused: () => Made;
  /** The picture nearest to the limit that is accepted. */
  readonly accepted: () => Made;
};

const PARTS = 'built of too many parts';
const COMPLEX = 'takes too long to read';
const FRAMES = 'too many frames';
const LARGE = 'animation is too large';

const SMALL = { width: 64, height: 48 };
const FIFTY_MEGAPIXELS = { width: 10_000, height: 5_000 };
const HD = { width: 1080, height: 1080 };
const NARROW = { width: 1, height: 4000 };
const { frames, parts, jpegScans, webpPrefixCodeGroups } = IMAGE_LIMITS;

const jpeg = (): Promise<Buffer> => noise(64, 48).jpeg().toBuffer();
const comments = (count: number): Buffer => filled(Buffer.of(0xff, 0xfe, 0, 2), count * 4);
const onePixel = flatGifData(1);
const behind = (start: Buffer, count: number): Buffer =>
  Buffer.concat([
    gif(1, onePixel, 1).subarray(0, 19),
    start,
    filled(Buffer.of(0x21, 0xfe, 0), count * 3),
    gif(1, onePixel, 1).subarray(19),
  ]);
const profileSegment = (number: number, of: number, profile: Buffer): Buffer =>
  jpegSegment(0xe2, Buffer.concat([Buffer.from('ICC_PROFILE\0'), Buffer.of(number, of), profile]));
const iccp = async (profile: Buffer): Promise<Buffer> =>
  webp(0x20, Buffer.concat([webpChunk('ICCP', profile), await webpPixel()]));
const wideGamut = async (image: Sharp): Promise<Buffer> => {
  const { icc } = await sharp(await image.withIccProfile('p3').toBuffer()).metadata();
  if (!icc) throw new Error('No profile was written.');
  return icc;
};

const CASES: Readonly<Record<string, Case>> = {
  'JPEG of 2,647 nearly empty scans': {
    format: 'jpeg',
    told: COMPLEX,
    refused: () => jpegOfScans(SMALL),
    accepted: () => jpegOfScans(SMALL, jpegScans),
  },
  'JPEG of 8 megapixels with one scan too many': {
    format: 'jpeg',
    told: COMPLEX,
    refused: () => jpegOfScans({ width: 3264, height: 2448 }, jpegScans + 1),
    accepted: () => jpegOfScans({ width: 3264, height: 2448 }, jpegScans),
  },
  'JPEG of too many passes over its coefficients': {
    format: 'jpeg',
    told: COMPLEX,
    refused: () => jpegOfPasses(FIFTY_MEGAPIXELS, 5),
    accepted: () => jpegOfPasses(FIFTY_MEGAPIXELS, 4),
  },
  'JPEG with arithmetic coding': {
    format: 'jpeg',
    told: 'phones do not show',
    refused: () => arithmeticJpeg(SMALL),
    accepted: () => jpegOfScans(SMALL, 1),
  },
  'JPEG without loss': {
    format: 'jpeg',
    told: 'phones do not show',
    refused: async () => withFrame(await jpeg(), 0xc3, 8),
    accepted: jpeg,
  },
  'JPEG of twelve bits': {
    format: 'jpeg',
    told: 'phones do not show',
    refused: async () => withFrame(await jpeg(), 0xc1, 12),
    accepted: async () => withFrame(await jpeg(), 0xc1, 8),
  },
  'JPEG of empty comments': {
    format: 'jpeg',
    told: PARTS,
    refused: async () => jpegWithSegments(await jpeg(), comments(parts * 1.1)),
    accepted: async () => jpegWithSegments(await jpeg(), comments(parts)),
  },
  'JPEG of restart markers outside scans': {
    format: 'jpeg',
    told: PARTS,
    refused: async () => jpegWithSegments(await jpeg(), filled(Buffer.of(0xff, 0xd0), parts * 2.2)),
    accepted: async () => jpegWithSegments(await jpeg(), filled(Buffer.of(0xff, 0xd0), parts * 2)),
  },
  'JPEG with a multi-process colour profile': {
    format: 'jpeg',
    told: COMPLEX,
    refused: async () => jpegWithSegments(await jpeg(), profileSegment(1, 1, multiProcessProfile(2000))),
    accepted: () => noise(64, 48).withIccProfile('p3').jpeg().toBuffer(),
  },
  'JPEG with a multi-process colour profile in two segments': {
    format: 'jpeg',
    told: COMPLEX,
    refused: async () => {
      const profile = multiProcessProfile(2000);
      return jpegWithSegments(
        await jpeg(),
        profileSegment(1, 2, profile.subarray(0, 150)),
        profileSegment(2, 2, profile.subarray(150)),
      );
    },
    accepted: async () => {
      const profile = await wideGamut(noise(8, 8).png());
      return jpegWithSegments(
        await jpeg(),
        profileSegment(1, 2, profile.subarray(0, 150)),
        profileSegment(2, 2, profile.subarray(150)),
      );
    },
  },

  'PNG for apps of Apple': {
    format: 'png',
    told: 'only apps of Apple show',
    refused: async () => {
      const picture = await noise(8, 8).png().toBuffer();
      return Buffer.concat([
        picture.subarray(0, 8),
        pngChunk('CgBI', Buffer.of(0x50, 0, 0x20, 2)),
        picture.subarray(8),
      ]);
    },
    accepted: () => noise(8, 8).png().toBuffer(),
  },
  'PNG of too large frames': {
    format: 'png',
    told: LARGE,
    refused: () => animatedPng({ width: 4097, height: 4096 }, 1),
    accepted: () => animatedPng({ width: 4095, height: 4096 }, 1),
  },
  'PNG with data in chunks of one byte': {
    format: 'png',
    told: PARTS,
    refused: async () => withPieces(await noise(120, 100, 60).png({ compressionLevel: 0 }).toBuffer(), 1),
    accepted: async () => withPieces(await noise(120, 100, 60).png({ compressionLevel: 0 }).toBuffer(), 64),
  },
  'PNG of many unknown chunks': {
    format: 'png',
    told: PARTS,
    refused: () => png({ width: 1, height: 1, depth: 8 }, { before: filled(pngChunk('what'), parts * 16) }),
    accepted: async () => withPieces(await noise(32, 32, 60).png().toBuffer(), 1),
  },
  'PNG with a multi-process colour profile': {
    format: 'png',
    told: COMPLEX,
    refused: () => png({ ...SMALL, depth: 8 }, { before: pngProfile(multiProcessProfile(2000)) }),
    accepted: async () =>
      png({ ...SMALL, depth: 8 }, { before: pngProfile(await wideGamut(noise(8, 8).png())) }),
  },
  'PNG of 50 interlaced megapixels of 16 bits': {
    format: 'png',
    told: COMPLEX,
    refused: () => stating(FIFTY_MEGAPIXELS, png({ ...SMALL, depth: 16 }, { interlaced: true })),
    accepted: () => stating(FIFTY_MEGAPIXELS, png({ ...SMALL, depth: 8 }, { interlaced: true })),
  },
  'PNG of too many frames': {
    format: 'png',
    told: FRAMES,
    refused: () => animatedPng({ width: 2, height: 2 }, frames + 1),
    accepted: () => animatedPng({ width: 2, height: 2 }, frames),
  },
  'PNG of too many large frames': {
    format: 'png',
    told: LARGE,
    refused: () => animatedPng({ width: 2000, height: 2000 }, 101),
    accepted: () => animatedPng({ width: 2000, height: 2000 }, 100),
  },

  'GIF of too many frames': {
    format: 'gif',
    told: FRAMES,
    refused: () => gif(1, onePixel, frames + 1),
    accepted: () => gif(1, onePixel, frames),
  },
  'GIF of small frames on a large screen': {
    format: 'gif',
    told: LARGE,
    refused: () => gifOfFrames({ width: 2000, height: 2000 }, { width: 1, height: 1 }, onePixel, 101),
    accepted: () => gifOfFrames({ width: 2000, height: 2000 }, { width: 1, height: 1 }, onePixel, 100),
  },
  'GIF of large frames on a small screen': {
    format: 'gif',
    told: LARGE,
    refused: () => gifOfFrames({ width: 9, height: 9 }, { width: 2000, height: 2000 }, flatGifData(4e6), 101),
    accepted: () =>
      gifOfFrames({ width: 9, height: 9 }, { width: 2000, height: 2000 }, flatGifData(4e6), 100),
  },
  'GIF of frames of one column': {
    format: 'gif',
    told: LARGE,
    refused: () => gifOfFrames(NARROW, NARROW, flatGifData(NARROW.height), 17),
    accepted: () => gifOfFrames(NARROW, NARROW, flatGifData(NARROW.height), 16),
  },
  'GIF of frames of one column on an empty screen': {
    format: 'gif',
    told: LARGE,
    refused: () => gifOfFrames({ width: 0, height: 0 }, NARROW, flatGifData(NARROW.height), 17),
    accepted: () => gifOfFrames({ width: 0, height: 0 }, NARROW, flatGifData(NARROW.height), 16),
  },
  'GIF with data in sub-blocks of one byte': {
    format: 'gif',
    told: PARTS,
    refused: () => gif(150, singleByteBlocks(150 ** 2), 1),
    accepted: () => gif(125, singleByteBlocks(125 ** 2), 1),
  },
  'GIF of clear codes': {
    format: 'gif',
    told: PARTS,
    refused: () => gif(1, gifDataOfClearCodes(parts + 500), 1),
    accepted: () => gif(1, gifDataOfClearCodes(parts - 50), 1),
  },
  'GIF of empty extensions': {
    format: 'gif',
    told: PARTS,
    refused: () => behind(Buffer.alloc(0), parts * 1.1),
    accepted: () => behind(Buffer.alloc(0), parts),
  },

  'WebP of too many frames': {
    format: 'webp',
    told: FRAMES,
    refused: () => animatedWebp({ width: 1, height: 1 }, losslessWebp({ width: 1, height: 1 }), frames + 1),
    accepted: () => animatedWebp({ width: 1, height: 1 }, losslessWebp({ width: 1, height: 1 }), frames),
  },
  'WebP of too many large frames': {
    format: 'webp',
    told: LARGE,
    refused: () => animatedWebp({ width: 2000, height: 2000 }, losslessWebp({ width: 1, height: 1 }), 101),
    accepted: () => animatedWebp({ width: 2000, height: 2000 }, losslessWebp({ width: 1, height: 1 }), 100),
  },
  'WebP of frames of one column': {
    format: 'webp',
    told: LARGE,
    refused: () => animatedWebp(NARROW, losslessWebp(NARROW), 17),
    accepted: () => animatedWebp(NARROW, losslessWebp(NARROW), 16),
  },
  'WebP of empty chunks': {
    format: 'webp',
    told: PARTS,
    refused: async () =>
      webp(0, Buffer.concat([filled(webpChunk('what', Buffer.alloc(0)), parts * 10), await webpPixel()])),
    accepted: async () =>
      webp(0, Buffer.concat([filled(webpChunk('what', Buffer.alloc(0)), parts * 8), await webpPixel()])),
  },
  'WebP frame of empty chunks': {
    format: 'webp',
    told: PARTS,
    refused: async () => animatedWebp({ width: 1, height: 1 }, await amongChunks(parts * 10), 1),
    accepted: async () => animatedWebp({ width: 1, height: 1 }, await amongChunks(parts * 8), 1),
  },
  'WebP of too many prefix codes': {
    format: 'webp',
    told: COMPLEX,
    refused: () => plainWebp(losslessWebp({ width: 512, height: 512 }, { groups: webpPrefixCodeGroups + 1 })),
    accepted: () => plainWebp(losslessWebp({ width: 512, height: 512 }, { groups: webpPrefixCodeGroups })),
  },
  'WebP of too many prefix codes after transforms': {
    format: 'webp',
    told: COMPLEX,
    refused: () => plainWebp(losslessWebp(SMALL, { groups: 65_536, transformed: true })),
    accepted: () => plainWebp(losslessWebp(SMALL, { groups: 100, transformed: true })),
  },
  'WebP of too many prefix codes in all frames': {
    format: 'webp',
    told: COMPLEX,
    refused: () => animatedWebp(SMALL, losslessWebp(SMALL, { groups: 192 }), 86),
    accepted: () => animatedWebp(SMALL, losslessWebp(SMALL, { groups: 192 }), 85),
  },
  'WebP of too many prefix codes in its transparency': {
    format: 'webp',
    told: COMPLEX,
    refused: async () => animatedWebp(SMALL, await losslessAlphaWebp(SMALL, webpPrefixCodeGroups + 1), 1),
    accepted: async () => animatedWebp(SMALL, await losslessAlphaWebp(SMALL, 192), 1),
  },
  'WebP with a multi-process colour profile': {
    format: 'webp',
    told: COMPLEX,
    refused: () => iccp(multiProcessProfile(2000)),
    accepted: async () => iccp(await wideGamut(noise(8, 8).png())),
  },
};

/** The JPEG with another kind of frame, and other bits per sample. */
function withFrame(bytes: Buffer, marker: number, bits: number): Buffer {
  const frame = bytes.indexOf(Buffer.of(0xff, 0xc0));
  bytes[frame + 1] = marker;
  bytes[frame + 4] = bits;
  return bytes;
}

/** The chunks of a frame: unknown chunks, and then the picture. */
async function amongChunks(bytes: number): Promise<Buffer> {
  return Buffer.concat([filled(webpChunk('what', Buffer.alloc(0)), bytes), await webpPixel()]);
}

/** The PNG with another size in its header. */
function stating({ width, height }: { width: number; height: number }, bytes: Buffer): Buffer {
  const header = Buffer.from(bytes.subarray(16, 29));
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  return Buffer.concat([bytes.subarray(0, 8), pngChunk('IHDR', header), bytes.subarray(33)]);
}

/** The PNG with its data in chunks of so many bytes. */
function withPieces(bytes: Buffer, length: number): Buffer {
  const chunks: Buffer[] = [bytes.subarray(0, 8)];
  for (let at = 8; at < bytes.length;) {
    const end = at + 12 + bytes.readUInt32BE(at);
    const data = bytes.subarray(at + 8, end - 4);
    if (bytes.toString('latin1', at + 4, at + 8) !== 'IDAT') chunks.push(bytes.subarray(at, end));
    else {
      for (let from = 0; from < data.length; from += length) {
        chunks.push(pngChunk('IDAT', data.subarray(from, from + length)));
      }
    }
    at = end;
  }
  return Buffer.concat(chunks);
}

const refusal = (bytes: Buffer, format: ImageFormat): unknown => {
  try {
    withoutMetadata(bytes, format);
    return undefined;
  } catch (error) {
    return error;
  }
};

describe('the image limits', () => {
  it.each(Object.entries(CASES))('refuse a %s', async (_what, { format, told, refused }) => {
    const error = refusal(await refused(), format);
    expect(error).toBeInstanceOf(ImageLimitError);
    expect((error as ImageLimitError).sentence).toContain(told);
    expect((error as ImageLimitError).sentence).toMatch(/^The [^.]+\. Please [^.]+\.$/);
  });

  it.each(Object.entries(CASES))(
    'accept the picture just below the limit for a %s',
    async (_what, { format, accepted }) => {
      const cleaned = withoutMetadata(await accepted(), format).bytes;
      await expect(sharp(cleaned, { limitInputPixels: false }).metadata()).resolves.toMatchObject({ format });
    },
  );

  // A picture that decoders can not read would be refused as damaged, not by a limit.
  it.each([
    ['scans', (): Made => jpegOfScans(SMALL)],
    ['passes', (): Made => jpegOfPasses(SMALL, 14)],
    ['arithmetic coding', (): Made => arithmeticJpeg(SMALL)],
    [
      'multi-process colour profiles',
      (): Made => png({ ...SMALL, depth: 8 }, { before: pngProfile(multiProcessProfile(9)) }),
    ],
    ['frames', (): Made => gif(1, onePixel, frames + 1)],
    [
      'frames beyond the screen',
      (): Made => gifOfFrames({ width: 9, height: 9 }, SMALL, flatGifData(64 * 48), 3),
    ],
    ['clear codes', (): Made => gif(1, gifDataOfClearCodes(parts + 500), 1)],
    ['prefix codes', (): Made => plainWebp(losslessWebp(SMALL, { groups: 192, transformed: true }))],
    [
      'prefix codes of transparency',
      async (): Promise<Buffer> => animatedWebp(SMALL, await losslessAlphaWebp(SMALL, 192), 2),
    ],
    ['narrow frames', (): Made => animatedWebp(NARROW, losslessWebp(NARROW), 17)],
  ])('apply to pictures that decoders can read: %s', async (_what, made) => {
    const whole = sharp(await made(), { animated: true, failOn: 'warning' })
      .raw()
      .toBuffer();
    await expect(whole).resolves.toBeInstanceOf(Buffer);
  });

  it('check the colour profile that decoders use, in any order of its segments', async () => {
    const profile = multiProcessProfile(9);
    const [first, second] = [profile.subarray(0, 150), profile.subarray(150)];
    const harmless = await wideGamut(noise(8, 8).png());
    for (const segments of [
      [profileSegment(2, 2, second), profileSegment(1, 2, first)],
      [profileSegment(1, 1, harmless), profileSegment(1, 1, profile)],
      [profileSegment(0, 1, profile), profileSegment(1, 1, harmless)],
    ]) {
      const { icc } = await sharp(
        withoutMetadata(jpegWithSegments(await jpeg(), ...segments), 'jpeg').bytes,
      ).metadata();
      expect(icc?.includes('mpet') ?? false).toBe(false);
    }
  });
});

describe('the image limits accept every real picture', () => {
  const photograph = (): Sharp => sharp(readFileSync('test/images/phone-photo.jpg')).resize(640);
  const large = (): Sharp => noise(1600, 1200, 20);
  const moving = (count: number): Sharp =>
    sharp(Buffer.alloc(HD.width * HD.height * count * 3, 'red and green'), {
      raw: { ...HD, height: HD.height * count, channels: 3, pageHeight: HD.height },
    });
  const corpus = readdirSync('test/images/corpus').filter((name) => !name.endsWith('.md'));

  it.each([
    ['the phone photograph', 'jpeg', (): Made => readFileSync('test/images/phone-photo.jpg')],
    ...corpus.map((name): [string, ImageFormat, () => Made] => {
      const extension = name.slice(name.lastIndexOf('.') + 1);
      const format = extension === 'jpg' ? 'jpeg' : (extension as ImageFormat);
      return [`the corpus file ${name}`, format, () => readFileSync(`test/images/corpus/${name}`)];
    }),
    [
      'a progressive picture',
      'jpeg',
      () => large().jpeg({ progressive: true, chromaSubsampling: '4:4:4' }).toBuffer(),
    ],
    ['a picture of mozjpeg', 'jpeg', () => large().jpeg({ mozjpeg: true, quality: 95 }).toBuffer()],
    [
      'a progressive CMYK picture',
      'jpeg',
      () => large().withIccProfile('cmyk').jpeg({ progressive: true }).toBuffer(),
    ],
    ['a grey picture', 'jpeg', () => large().greyscale().jpeg({ mozjpeg: true }).toBuffer()],
    [
      'an interlaced picture of 16 bits',
      'png',
      () => photograph().toColourspace('rgb16').png({ progressive: true }).toBuffer(),
    ],
    [
      'a picture with a palette',
      'png',
      () => photograph().png({ palette: true, progressive: true }).toBuffer(),
    ],
    ['an uncompressed picture', 'png', () => photograph().png({ compressionLevel: 0 }).toBuffer()],
    ['a lossless picture', 'webp', () => photograph().webp({ lossless: true }).toBuffer()],
    [
      'a lossless picture, encoded fast',
      'webp',
      () => photograph().webp({ lossless: true, effort: 0 }).toBuffer(),
    ],
    ['a nearly lossless picture', 'webp', () => photograph().webp({ nearLossless: true }).toBuffer()],
    ['a picture of few colours', 'webp', () => photograph().threshold().webp({ lossless: true }).toBuffer()],
    ['a picture with transparency', 'webp', async () => (await withAlpha(photograph())).webp().toBuffer()],
    [
      'a lossless picture with transparency',
      'webp',
      async () => (await withAlpha(photograph())).webp({ lossless: true }).toBuffer(),
    ],
    ['an animation of 12 frames of 1080 × 1080', 'webp', () => moving(12).webp({ effort: 0 }).toBuffer()],
    ['a lossless animation', 'webp', () => moving(4).webp({ lossless: true, effort: 0 }).toBuffer()],
    ['an animation of 12 frames of 1080 × 1080', 'gif', () => moving(12).gif({ effort: 1 }).toBuffer()],
    [
      'an animation of 60 frames of 1080 × 1080',
      'gif',
      () => gif(HD.width, flatGifData(HD.width * HD.height), 60),
    ],
    ['an animation of 60 frames of 1080 × 1080', 'webp', () => animatedWebp(HD, losslessWebp(HD), 60)],
  ] as [string, ImageFormat, () => Made][])('%s (%s)', async (_what, format, made) => {
    expect(refusal(await made(), format)).toBeUndefined();
  });
});

/** Adds random transparency. */
async function withAlpha(image: Sharp): Promise<Sharp> {
  const { data, info } = await image.ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  const grain = await noise(info.width, info.height, 60).raw().toBuffer();
  for (let at = 3; at < data.length; at += 4) data[at] = grain[at - 3 - Math.floor(at / 4)] ?? 0;
  return sharp(data, { raw: { width: info.width, height: info.height, channels: 4 } });
}
