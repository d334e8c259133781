import { isNativeError } from 'node:util/types';
import sharp from 'sharp';
import { type ImageFormat, MAX_PIXELS } from './image-format.js';
import { invalidPicture } from './picture-error.js';

/**
 * Warnings of libjpeg for complete photographs of some phones. Any other warning means missing or corrupt image data.
 */
const HARMLESS_JPEG_WARNING =
  /Invalid SOS parameters|extraneous bytes before marker|Unknown Adobe color|JFIF/;

export type InspectedImage = {
  readonly mimeType: `image/${ImageFormat}`;
  /** Without the dot. */
  readonly extension: 'jpg' | 'png' | 'gif' | 'webp';
  /** In pixels, after the orientation is applied. */
  readonly width: number;
  readonly height: number;
};

// Allow only the libvips loaders of the accepted formats, regardless of the signature in the bytes.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadJpegBuffer',
    'VipsForeignLoadPngBuffer',
    'VipsForeignLoadNsgifBuffer',
    'VipsForeignLoadWebpBuffer',
  ],
});
// No cache: each picture is decoded once, and a cache would only use memory. One thread per picture.
sharp.cache(false);
sharp.concurrency(1);

/**
 * Reads the header of a picture without decoding pixels. For an animation, sharp builds a list of all frames on the event
 * loop. The caller must have limited the number of frames before.
 *
 * @throws PictureError with a sentence that names the reason
 */
export async function readHeader(bytes: Buffer, format: ImageFormat): Promise<InspectedImage> {
  const header = await sharp(bytes, { animated: true, limitInputPixels: false })
    .metadata()
    .catch((error: unknown) => {
      throw invalidPicture('The image is damaged. Please send it again.', error);
    });
  if (header.format !== format) throw invalidPicture('The image is damaged. Please send it again.');
  // Decoders use the size of the first frame. Viewers may use the logical screen size of a GIF.
  const screen = format === 'gif' ? bytes.readUInt16LE(6) * bytes.readUInt16LE(8) : 0;
  const pixels = Math.max(header.width * header.height, screen);
  if (pixels > MAX_PIXELS)
    throw invalidPicture('The image has more than 50 megapixels. Please send a smaller one.');
  const { width, height } = header.autoOrient;
  return {
    mimeType: `image/${format}`,
    extension: format === 'jpeg' ? 'jpg' : format,
    width,
    height: header.pageHeight ?? height,
  };
}

/**
 * Decodes the whole picture, to find out whether the picture is complete. The output is one pixel, which needs little
 * memory, and is thrown away.
 *
 * @throws PictureError with a sentence that names the reason
 */
export async function decode(bytes: Buffer, format: ImageFormat): Promise<void> {
  const attempt = (failOn: 'warning' | 'error'): Promise<Buffer> =>
    sharp(bytes, {
      failOn,
      sequentialRead: true,
      animated: true,
      limitInputPixels: MAX_PIXELS,
      // Colours do not matter here.
      ignoreIcc: true,
    })
      .resize(1, 1, { fit: 'fill' })
      .raw()
      .toBuffer();
  try {
    await attempt(format === 'jpeg' ? 'warning' : 'error').catch((error: unknown) => {
      if (!isNativeError(error) || !HARMLESS_JPEG_WARNING.test(error.message)) throw error;
      return attempt('error');
    });
  } catch (error) {
    throw invalidPicture('The image is damaged or incomplete. Please send it again.', error);
  }
}
