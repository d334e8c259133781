import { readFile } from 'node:fs/promises';
import sharp from 'sharp';

/** A photograph that a phone wrote: 1278 x 720, with GPS, maker notes and a thumbnail. */
export const phonePhoto = (): Promise<Buffer> => readFile('test/images/phone-photo.jpg');

/** A small picture of noise and shapes in the given format. */
export function picture(format: 'jpeg' | 'png' | 'gif' | 'webp', width = 64, height = 48): Promise<Buffer> {
  const shapes = `<svg width="${width}" height="${height}"><circle cx="20" cy="20" r="15" fill="crimson"/></svg>`;
  return sharp({
    create: {
      width,
      height,
      channels: 3,
      background: 'bisque',
      noise: { type: 'gaussian', mean: 128, sigma: 30 },
    },
  })
    .composite([{ input: Buffer.from(shapes) }])
    .toFormat(format)
    .toBuffer();
}

/** Every pixel of a picture, as red, green, blue and alpha, with all its frames. */
export async function pixels(bytes: Buffer): Promise<Buffer> {
  return sharp(bytes, { animated: true }).ensureAlpha().raw().toBuffer();
}
