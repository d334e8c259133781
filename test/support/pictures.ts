import { readFile } from 'node:fs/promises';
import sharp from 'sharp';

/** A phone photograph: 1278 x 720, with GPS, maker notes and a thumbnail. */
export const phonePhoto = (): Promise<Buffer> => readFile('test/images/phone-photo.jpg');

/** A small random picture in the given format, different each time. */
export function picture(format: 'jpeg' | 'png' | 'gif' | 'webp', width = 64, height = 48): Promise<Buffer> {
  const noise = { type: 'gaussian', mean: 128, sigma: 30 } as const;
  return sharp({ create: { width, height, channels: 3, background: 'bisque', noise } })
    .toFormat(format)
    .toBuffer();
}

/** Every pixel of all frames, as red, green, blue and alpha. */
export async function pixels(bytes: Buffer): Promise<Buffer> {
  return sharp(bytes, { animated: true }).ensureAlpha().raw().toBuffer();
}
