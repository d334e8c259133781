import { describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import sharp, { type Sharp } from 'sharp';
import { decodeMemory, LIGHT_DECODE_BYTES, MAX_DECODE_BYTES } from './decode-memory.js';
import { detectFormat } from './image-format.js';

type Size = readonly [width: number, height: number];

const TWELVE_MEGAPIXELS: Size = [4000, 3000];
const FIFTY_MEGAPIXELS: Size = [8660, 5773];

const flat = (channels: 3 | 4 = 3): Sharp =>
  sharp({ create: { width: 40, height: 30, channels, background: { r: 9, g: 99, b: 199, alpha: 0.5 } } });

const ONE_SCAN = flat().jpeg();
const PROGRESSIVE = flat().jpeg({ progressive: true });
const PROGRESSIVE_FULL = flat().jpeg({ progressive: true, chromaSubsampling: '4:4:4' });
const PROGRESSIVE_GREY = flat().toColourspace('b-w').jpeg({ progressive: true });
const PROGRESSIVE_CMYK = flat().toColourspace('cmyk').jpeg({ progressive: true, chromaSubsampling: '4:4:4' });
const ROW_BY_ROW = flat(4).png();
const INTERLACED = flat(4).png({ progressive: true });
const INTERLACED_16 = flat(4).toColourspace('rgb16').png({ progressive: true });
const LOSSY = flat().webp();
const LOSSLESS = flat().webp({ lossless: true });
const LOSSY_WITH_ALPHA = flat(4).webp();
const GIF = flat().gif();

/** A picture whose header has another size. */
async function headerOf(image: Sharp, [width, height]: Size): Promise<Buffer> {
  const bytes = await image.clone().toBuffer();
  switch (detectFormat(bytes)) {
    case 'jpeg': {
      const frame = Math.max(
        bytes.indexOf(Buffer.of(0xff, 0xc0, 0)),
        bytes.indexOf(Buffer.of(0xff, 0xc2, 0)),
      );
      bytes.writeUInt16BE(height, frame + 5);
      bytes.writeUInt16BE(width, frame + 7);
      return bytes;
    }
    case 'png':
      bytes.writeUInt32BE(width, 16);
      bytes.writeUInt32BE(height, 20);
      return bytes;
    case 'gif':
      bytes.writeUInt16LE(width, 6);
      bytes.writeUInt16LE(height, 8);
      return bytes;
    case 'webp': {
      const type = bytes.toString('latin1', 12, 16);
      if (type === 'VP8 ') {
        bytes.writeUInt16LE(width, 26);
        bytes.writeUInt16LE(height, 28);
      } else if (type === 'VP8L') {
        bytes.writeUInt32LE((((height - 1) << 14) | (width - 1)) >>> 0, 21);
      } else {
        bytes.writeUIntLE(width - 1, 24, 3);
        bytes.writeUIntLE(height - 1, 27, 3);
      }
      return bytes;
    }
  }
}

async function estimate(image: Sharp, size: Size): Promise<number> {
  const bytes = await headerOf(image, size);
  return decodeMemory([bytes], detectFormat(bytes));
}

describe('the memory that a picture takes to decode', () => {
  it('is small for photographs, which are read row by row', async () => {
    expect(decodeMemory([readFileSync('test/images/phone-photo.jpg')], 'jpeg')).toBeLessThan(
      LIGHT_DECODE_BYTES,
    );
    for (const [image, size] of [
      [ONE_SCAN, FIFTY_MEGAPIXELS],
      [ROW_BY_ROW, FIFTY_MEGAPIXELS],
      [LOSSY, TWELVE_MEGAPIXELS],
      [PROGRESSIVE, [4000, 2000]],
    ] as const) {
      expect(await estimate(image, size)).toBeLessThan(LIGHT_DECODE_BYTES);
    }
  });

  it.each([
    ['a progressive JPEG', PROGRESSIVE, 3],
    ['a progressive JPEG of full sampling', PROGRESSIVE_FULL, 6],
    ['a grey progressive JPEG', PROGRESSIVE_GREY, 2],
    ['a CMYK progressive JPEG', PROGRESSIVE_CMYK, 8],
    ['an interlaced PNG', INTERLACED, 4],
    ['an interlaced PNG of 16 bits', INTERLACED_16, 8],
    ['a WebP', LOSSY, 2],
    ['a lossless WebP', LOSSLESS, 7],
    ['a WebP with transparency', LOSSY_WITH_ALPHA, 7],
    ['a GIF', GIF, 5],
  ])('is estimated in bytes per pixel for %s', async (_, image, perPixel) => {
    const [small, large] = [await estimate(image, [1, 1]), await estimate(image, FIFTY_MEGAPIXELS)];
    expect((large - small) / 50e6).toBeCloseTo(perPixel, 1);
  });

  it('is below the limit for 50 megapixels in every usual form', async () => {
    for (const image of [PROGRESSIVE_FULL, INTERLACED, LOSSLESS, LOSSY_WITH_ALPHA, GIF]) {
      expect(await estimate(image, FIFTY_MEGAPIXELS)).toBeLessThan(MAX_DECODE_BYTES);
    }
    for (const image of [PROGRESSIVE_CMYK, INTERLACED_16]) {
      expect(await estimate(image, FIFTY_MEGAPIXELS)).toBeGreaterThan(MAX_DECODE_BYTES);
      expect(await estimate(image, [8000, 5000])).toBeLessThan(MAX_DECODE_BYTES);
    }
  });

  it('is small for an incomplete header', async () => {
    for (const image of [PROGRESSIVE, INTERLACED, LOSSLESS, LOSSY_WITH_ALPHA, GIF]) {
      const whole = await image.clone().toBuffer();
      for (let length = 12; length < whole.length; length += 1) {
        const part = whole.subarray(0, length);
        expect(decodeMemory([part], detectFormat(part))).toBeLessThan(LIGHT_DECODE_BYTES);
      }
    }
  });

  it('is found also after two million segments', () => {
    const segments = Buffer.alloc(8 * 1024 * 1024, Buffer.from([0xff, 0xfe, 0, 2]));
    segments.set([0xff, 0xd8]);
    expect(decodeMemory([segments], 'jpeg')).toBeLessThan(LIGHT_DECODE_BYTES);
  });
});
