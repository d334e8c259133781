import { describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import sharp, { type Sharp } from 'sharp';
import { inspectImage } from './image-inspector.js';

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

describe('inspectImage', () => {
  it.each([
    ['jpeg', 'jpg'],
    ['png', 'png'],
    ['gif', 'gif'],
    ['webp', 'webp'],
  ] as const)('knows a %s by its bytes', async (format, extension) => {
    expect(await inspectImage(await noise(format))).toEqual({
      mimeType: `image/${format}`,
      extension,
      width: 90,
      height: 60,
    });
  });

  it('reads the photographs of phones', async () => {
    expect(await inspectImage(await readFile('test/images/phone-photo.jpg'))).toMatchObject({
      width: 1278,
      height: 720,
    });
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'tells width and height as a viewer shows them, with orientation %d',
    async (orientation) => {
      const turned = await flat(90, 60).jpeg().withMetadata({ orientation }).toBuffer();
      const [width, height] = orientation < 5 ? [90, 60] : [60, 90];
      expect(await inspectImage(turned)).toMatchObject({ width, height });
    },
  );

  it('tells the size of one frame of an animation', async () => {
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
    expect(await inspectImage(animation)).toMatchObject({ mimeType: 'image/gif', width: 40, height: 30 });
  });

  it.each(['jpeg', 'png', 'gif', 'webp'] as const)(
    'refuses a %s that is cut off anywhere',
    async (format) => {
      const whole = await noise(format);
      for (const length of [8, 20, Math.floor(whole.length / 2), whole.length - 40]) {
        await expect(inspectImage(whole.subarray(0, length))).rejects.toMatchObject({
          code: 'INVALID_IMAGE',
        });
      }
    },
  );

  it('refuses more than 50 megapixels by the header alone', async () => {
    const huge = await flat(10_000, 5_001).png().toBuffer();
    expect(huge.length).toBeLessThan(1_000_000);
    await expect(inspectImage(huge)).rejects.toThrow('more than 50 megapixels');
    await expect(inspectImage(await flat(10_000, 5_000).png().toBuffer())).resolves.toMatchObject({
      width: 10_000,
    });
  });

  it('refuses formats that its library could load', async () => {
    await expect(inspectImage(await flat(10, 10).tiff().toBuffer())).rejects.toThrow(
      'not a JPEG, PNG, GIF or WebP',
    );
    await expect(inspectImage(await flat(10, 10).avif().toBuffer())).rejects.toThrow('AVIF');
  });
});
