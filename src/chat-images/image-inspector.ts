import { isNativeError } from 'node:util/types';
import sharp from 'sharp';
import { AppError } from '../errors/app-error.js';

/** At most this many pixels, over all frames of an animation. */
export const MAX_PIXELS = 50_000_000;

/** How long a picture may take to decode, in seconds. */
const DECODE_TIMEOUT_SECONDS = 10;

/**
 * From this many pixels on, an interlaced or progressive picture is decoded alone: it can not be decoded row by row,
 * and is in memory whole.
 */
const HEAVY_PIXELS = 8_000_000;

/**
 * What libjpeg complains about in photographs that are whole: some phones write these. Any other complaint means that
 * image data is missing or wrong.
 */
const HARMLESS_JPEG_WARNING =
  /Invalid SOS parameters|extraneous bytes before marker|Unknown Adobe color|JFIF/;

export type ImageFormat = 'jpeg' | 'png' | 'gif' | 'webp';

export type InspectedImage = {
  readonly mimeType: `image/${ImageFormat}`;
  /** Without dot. */
  readonly extension: 'jpg' | 'png' | 'gif' | 'webp';
  /** Pixels, as a viewer shows the picture: after its orientation is applied. */
  readonly width: number;
  readonly height: number;
};

// Of libvips' many loaders only those of the accepted formats run, whatever the bytes claim to be.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadJpegBuffer',
    'VipsForeignLoadPngBuffer',
    'VipsForeignLoadNsgifBuffer',
    'VipsForeignLoadWebpBuffer',
  ],
});
// Pictures are seen once: a cache of them would only hold memory. One thread for each, so that many can go on.
sharp.cache(false);
sharp.concurrency(1);

/** What the header of a picture says, and whether decoding it takes much memory. */
export type ImageHeader = InspectedImage & { readonly heavy: boolean };

/**
 * Reads the header of a picture, before anything is decoded. Of an animation that is told in a list of all frames, made
 * on the event loop: their number must have been limited before.
 *
 * @throws AppError INVALID_IMAGE with a sentence that names the reason
 */
export async function readHeader(bytes: Buffer, format: ImageFormat): Promise<ImageHeader> {
  const header = await sharp(bytes, { animated: true, limitInputPixels: false })
    .metadata()
    .catch((error: unknown) => {
      throw invalidImage('The image is damaged. Please send it again.', error);
    });
  if (header.format !== format) throw invalidImage('The image is damaged. Please send it again.');
  // Decoders make do with the size of the first frame; viewers may believe the screen that a GIF asks for.
  const screen = format === 'gif' ? bytes.readUInt16LE(6) * bytes.readUInt16LE(8) : 0;
  const pixels = Math.max(header.width * header.height, screen);
  if (pixels > MAX_PIXELS)
    throw invalidImage('The image has more than 50 megapixels. Please send a smaller one.');
  const { width, height } = header.autoOrient;
  return {
    mimeType: `image/${format}`,
    extension: format === 'jpeg' ? 'jpg' : format,
    width,
    height: header.pageHeight ?? height,
    heavy: pixels > HEAVY_PIXELS && (header.isProgressive || format === 'webp'),
  };
}

/**
 * Decodes a picture to its end, to find out whether it is whole. The result is thrown away: making one pixel of all of
 * it takes little memory.
 *
 * @throws AppError INVALID_IMAGE with a sentence that names the reason
 */
export async function decode(bytes: Buffer, format: ImageFormat): Promise<void> {
  const attempt = (failOn: 'warning' | 'error'): Promise<Buffer> =>
    sharp(bytes, { failOn, sequentialRead: true, animated: true, limitInputPixels: MAX_PIXELS })
      .timeout({ seconds: DECODE_TIMEOUT_SECONDS })
      .resize(1, 1, { fit: 'fill' })
      .raw()
      .toBuffer();
  try {
    await attempt(format === 'jpeg' ? 'warning' : 'error').catch((error: unknown) => {
      if (!isNativeError(error) || !HARMLESS_JPEG_WARNING.test(error.message)) throw error;
      return attempt('error');
    });
  } catch (error) {
    const tooSlow = isNativeError(error) && error.message.startsWith('timeout');
    throw invalidImage(
      tooSlow
        ? 'The image takes too long to read. Please send a smaller one.'
        : 'The image is damaged or incomplete. Please send it again.',
      error,
    );
  }
}

/**
 * Names the format by the bytes' signature.
 *
 * @throws AppError INVALID_IMAGE with a sentence on what was sent instead
 */
export function detectFormat(bytes: Buffer): ImageFormat {
  if (bytes.length === 0) throw invalidImage('The file is empty.');
  const ascii = bytes.toString('latin1', 0, 512);
  if (ascii.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (ascii.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (/^GIF8[79]a/.test(ascii)) return 'gif';
  if (/^RIFF.{4}WEBP/s.test(ascii)) return 'webp';
  if (/^.{4}ftyp(hei|hev|mif1|msf1)/s.test(ascii)) {
    throw invalidImage('HEIC images are not supported. Please send it as JPEG.');
  }
  if (/^.{4}ftypavi/s.test(ascii))
    throw invalidImage('AVIF images are not supported. Please send it as JPEG.');
  if (/^\s*%PDF-/.test(ascii)) throw invalidImage('A PDF is not an image. Please send a JPEG or PNG.');
  if (/<svg\b/i.test(ascii)) throw invalidImage('SVG images are not supported. Please send a JPEG or PNG.');
  if (/^[^<]{0,8}\s*<(!doctype html|html|head|body|script|!--)/i.test(ascii)) {
    throw invalidImage('An HTML page is not an image. Please send a JPEG or PNG.');
  }
  throw invalidImage('The file is not a JPEG, PNG, GIF or WebP image.');
}

/** An INVALID_IMAGE error that names the reason. */
export function invalidImage(reason: string, cause?: unknown): AppError {
  return new AppError('INVALID_IMAGE', { message: reason, fields: { file: [reason] }, cause });
}
