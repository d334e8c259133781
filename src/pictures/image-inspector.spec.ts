import { describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import sharp, { type Sharp } from 'sharp';
import { flatGifData, gifOfFrames } from '../../test/support/hostile-pictures.js';
import { detectFormat } from './image-format.js';
import { inspect as inspectAs, type InspectedImage } from './image-inspector.js';

type Format = 'jpeg' | 'png' | 'gif' | 'webp';

const flat = (width: number, height: number): Sharp =>
  sharp({ create: { width, height, channels: 3, background: 'teal' }, limitInputPixels: false });
const noise = (format: Format): Promise<Buffer> =>
  sharp({
    create: {
      width: 90,
      height: 60,
      channels: 3,
      background: 'teal',
      noise: { type: 'gaussian', mean: 128, sigma: 40 },
    },
  })
    .toFormat(format)
    .toBuffer();

/** Inspects a picture without and with its thumbnail, which must not change the verdict. */
async function inspect(bytes: Buffer): Promise<InspectedImage> {
  const format = detectFormat(bytes);
  // One after the other, as libvips keeps the warnings of all pictures together.
  const [alone] = await Promise.allSettled([inspectAs(bytes, format)]);
  const [withThumbnail] = await Promise.allSettled([inspectAs(bytes, format, true)]);
  if (alone.status === 'rejected') {
    expect(withThumbnail).toEqual(alone);
    throw alone.reason;
  }
  expect(withThumbnail).toMatchObject({ value: { image: alone.value.image } });
  return alone.value.image;
}

describe('the image inspector', () => {
  it.each([
    ['jpeg', 'jpg'],
    ['png', 'png'],
    ['gif', 'gif'],
    ['webp', 'webp'],
  ] as const)('detects a %s by its bytes', async (format, extension) => {
    expect(await inspect(await noise(format))).toMatchObject({
      mimeType: `image/${format}`,
      extension,
      width: 90,
      height: 60,
    });
  });

  it('reads a phone photograph', async () => {
    expect(await inspect(await readFile('test/images/phone-photo.jpg'))).toMatchObject({
      width: 1278,
      height: 720,
    });
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'returns width and height as a viewer shows them, with orientation %d',
    async (orientation) => {
      const turned = await flat(90, 60).jpeg().withMetadata({ orientation }).toBuffer();
      const [width, height] = orientation < 5 ? [90, 60] : [60, 90];
      expect(await inspect(turned)).toMatchObject({ width, height });
    },
  );

  it('returns the size of a frame for an animation', async () => {
    const frames = await Promise.all(
      ['red', 'green', 'blue'].map((background) =>
        sharp({ create: { width: 40, height: 30, channels: 3, background } })
          .png()
          .toBuffer(),
      ),
    );
    const animation = await sharp(frames, { join: { animated: true } })
      .gif()
      .toBuffer();
    expect(await inspect(animation)).toMatchObject({ mimeType: 'image/gif', width: 40, height: 30 });
  });

  it.each(['jpeg', 'png', 'gif', 'webp'] as const)('refuses a truncated %s', async (format) => {
    const whole = await noise(format);
    for (const length of [8, 20, Math.floor(whole.length / 2), whole.length - 40]) {
      await expect(inspect(whole.subarray(0, length))).rejects.toMatchObject({
        failure: 'invalid',
      });
    }
  });

  it('refuses more than 50 megapixels by the header alone', async () => {
    const huge = await flat(10_000, 5_001).png().toBuffer();
    expect(huge.length).toBeLessThan(1_000_000);
    await expect(inspect(huge)).rejects.toThrow('more than 50 megapixels');
    await expect(inspect(await flat(10_000, 5_000).png().toBuffer())).resolves.toMatchObject({
      width: 10_000,
    });
  });

  it('refuses TIFF and AVIF, although sharp can load them', async () => {
    await expect(inspect(await flat(10, 10).tiff().toBuffer())).rejects.toThrow(
      'not a JPEG, PNG, GIF or WebP',
    );
    await expect(inspect(await flat(10, 10).avif().toBuffer())).rejects.toThrow('AVIF');
  });

  it('refuses incomplete image data after a complete header', async () => {
    const photo = await readFile('test/images/phone-photo.jpg');
    const half = Buffer.concat([photo.subarray(0, photo.length / 2), Buffer.from([0xff, 0xd9])]);
    await expect(inspect(half)).rejects.toThrow('damaged or incomplete');
    const lie = await flat(64, 64).jpeg().toBuffer();
    const size = lie.indexOf(Buffer.from([0xff, 0xc0])) + 5;
    lie.writeUInt16BE(7000, size);
    lie.writeUInt16BE(7000, size + 2);
    await expect(inspect(lie)).rejects.toThrow('damaged or incomplete');
  });

  const cut = (jpeg: Buffer, bytes: number): Buffer =>
    Buffer.concat([jpeg.subarray(0, jpeg.length - 2 - bytes), Buffer.from([0xff, 0xd9])]);

  it.each([
    ['baseline', {}],
    ['of full chroma', { chromaSubsampling: '4:4:4' }],
    // Its last scan must be longer than what is cut.
    ['progressive', { progressive: true }],
  ])(
    'refuses a JPEG that is %s and misses the last bytes of its data, however few',
    async (_what, options) => {
      for (const [width, height] of [
        [90, 60],
        [64, 8],
        [400, 320],
      ] as const) {
        const whole = await sharp(await noise('png'))
          .resize(width, height, { fit: 'fill' })
          .jpeg(options)
          .toBuffer();
        await expect(inspect(whole)).resolves.toMatchObject({ extension: 'jpg' });
        for (const missing of [1, 2, 3, 20])
          await expect(inspect(cut(whole, missing))).rejects.toThrow('damaged or incomplete');
      }
    },
  );

  it('accepts fields that decoders complain of, and refuses missing data beside them', async () => {
    const whole = await noise('jpeg');
    const adobe = Buffer.from('ffee000e41646f626500640000000007', 'hex');
    const withAdobe = Buffer.concat([whole.subarray(0, 2), adobe, whole.subarray(2)]);
    const oddScan = Buffer.from(withAdobe);
    const scan = oddScan.indexOf(Buffer.of(0xff, 0xda));
    // The last coefficient of a scan that has them all.
    oddScan[scan + 1 + oddScan.readUInt16BE(scan + 2) - 1] = 0;
    for (const bytes of [withAdobe, oddScan]) {
      await expect(inspect(bytes)).resolves.toMatchObject({ extension: 'jpg' });
      for (const missing of [1, 20, 500])
        await expect(inspect(cut(bytes, missing))).rejects.toThrow('damaged or incomplete');
    }
  });

  it('refuses bytes between the scans of a picture that is not progressive: browsers do not show it', async () => {
    const between = (name: string): Buffer => {
      const whole = readFileSync(`test/images/corpus/${name}`);
      const first = whole.indexOf(Buffer.of(0xff, 0xda));
      let at = first + 2 + whole.readUInt16BE(first + 2);
      while (whole[at] !== 0xff || whole[at + 1] === 0) at += 1;
      return Buffer.concat([whole.subarray(0, at), Buffer.alloc(9, 7), whole.subarray(at)]);
    };
    await expect(inspect(between('multi-scan.jpg'))).rejects.toThrow('damaged or incomplete');
    await expect(inspect(between('grey-progressive.jpg'))).resolves.toMatchObject({ extension: 'jpg' });
  });

  it('accepts an animation of 60 frames of 1080 × 1080', async () => {
    const size = { width: 1080, height: 1080 };
    const animation = gifOfFrames(size, size, flatGifData(1080 ** 2), 60);
    expect(await inspect(animation)).toMatchObject(size);
  });

  it('counts the screen size of a GIF, however small its frames are', async () => {
    const gif = await noise('gif');
    gif.writeUInt16LE(65_535, 6);
    gif.writeUInt16LE(65_535, 8);
    await expect(inspect(gif)).rejects.toThrow('more than 50 megapixels');
  });
});
