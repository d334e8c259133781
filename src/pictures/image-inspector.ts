import { isNativeError } from 'node:util/types';
import sharp from 'sharp';
import { type ImageFormat, MAX_PIXELS } from './image-format.js';
import { invalidPicture } from './picture-error.js';

/**
 * What libjpeg complains about in photographs that are whole: some phones write these. Any other complaint means that
 * image data is missing or wrong.
 */
const HARMLESS_JPEG_WARNING =
  /Invalid SOS parameters|extraneous bytes before marker|Unknown Adobe color|JFIF/;

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
 * Reads the header of a picture, before anything is decoded. Of an animation that is told in a list of all frames, made
 * on the event loop: their number must have been limited before.
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
  // Decoders make do with the size of the first frame; viewers may believe the screen that a GIF asks for.
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
 * Decodes a picture to its end, to find out whether it is whole. The result is thrown away: making one pixel of all of
 * it takes little memory.
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
      // Of colours nothing is asked here.
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
