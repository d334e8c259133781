import { createHash } from 'node:crypto';
import sharp, { type FailOnOptions } from 'sharp';

const MAX_PIXELS = 400_000_000;

/** What libvips shows of a picture. */
export type LibvipsView = {
  /** Size, orientation, frames with their delays and the loop count, and a digest of all pixels in sRGB. */
  readonly shown: string;
  /** Whether libvips finds nothing missing. */
  readonly isWhole: boolean;
};

/** @returns `undefined` when libvips can't open the picture */
export async function libvipsView(bytes: Buffer): Promise<LibvipsView | undefined> {
  for (const failOn of ['error', 'none'] as const) {
    try {
      return { shown: await shown(bytes, failOn), isWhole: failOn === 'error' };
    } catch {
      // Not whole, or not a picture.
    }
  }
  return undefined;
}

async function shown(bytes: Buffer, failOn: FailOnOptions): Promise<string> {
  const options = { animated: true, failOn, limitInputPixels: MAX_PIXELS } as const;
  const metadata = await sharp(bytes, options).metadata();
  const digest = createHash('sha256');
  const { data, info } = await sharp(bytes, options).raw().toBuffer({ resolveWithObject: true });
  digest.update(data);
  if (metadata.depth === 'ushort') {
    digest.update(await sharp(bytes, options).toColourspace('rgb16').raw({ depth: 'ushort' }).toBuffer());
  }
  return JSON.stringify({
    format: metadata.format,
    width: info.width,
    height: metadata.pageHeight ?? info.height,
    channels: info.channels,
    orientation: metadata.orientation ?? 1,
    delay: metadata.delay,
    loop: metadata.loop,
    pixels: digest.digest('hex').slice(0, 24),
  });
}
