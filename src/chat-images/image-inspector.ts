import sharp from 'sharp';
import { AppError } from '../errors/app-error.js';

/** At most this many pixels, over all frames of an animation. */
export const MAX_PIXELS = 50_000_000;

/** How long a picture may take to decode, in seconds. */
const DECODE_TIMEOUT_SECONDS = 15;

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

/**
 * Decides by the bytes alone whether they are an acceptable picture: a JPEG, PNG, GIF or WebP that decodes to its end.
 *
 * @throws AppError INVALID_IMAGE with a sentence that names the reason
 */
export async function inspectImage(bytes: Buffer): Promise<InspectedImage> {
  if (bytes.length === 0) throw invalidImage('The file is empty.');
  const format = detectFormat(bytes);
  const options = {
    failOn: 'error',
    sequentialRead: true,
    animated: true,
    limitInputPixels: MAX_PIXELS,
  } as const;
  const header = await sharp(bytes, { ...options, limitInputPixels: false })
    .metadata()
    .catch((error: unknown) => {
      throw invalidImage('The image is damaged. Please send it again.', error);
    });
  if (header.format !== format) throw invalidImage('The image is damaged. Please send it again.');
  if (header.width * header.height > MAX_PIXELS) {
    throw invalidImage('The image has more than 50 megapixels. Please send a smaller one.');
  }
  // The result is thrown away: making one pixel of the whole picture reads all of it in little memory.
  await sharp(bytes, options)
    .timeout({ seconds: DECODE_TIMEOUT_SECONDS })
    .resize(1, 1, { fit: 'fill' })
    .raw()
    .toBuffer()
    .catch((error: unknown) => {
      throw invalidImage('The image is damaged or incomplete. Please send it again.', error);
    });
  const { width, height } = header.autoOrient;
  return {
    mimeType: `image/${format}`,
    extension: format === 'jpeg' ? 'jpg' : format,
    width,
    height: header.pageHeight ?? height,
  };
}

/** Names the format by the bytes' signature, or refuses with a sentence on what was sent instead. */
function detectFormat(bytes: Buffer): ImageFormat {
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

function invalidImage(reason: string, cause?: unknown): AppError {
  return new AppError('INVALID_IMAGE', { message: reason, fields: { file: [reason] }, cause });
}
