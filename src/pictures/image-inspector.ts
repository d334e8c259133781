import sharp, { type FailOnOptions, type Metadata, type Sharp } from 'sharp';
import { type ImageFormat, MAX_PIXELS } from './image-format.js';
import { harmlessOddities, isProgressive } from './image-metadata/jpeg.js';
import { IMAGE_LIMITS } from './image-metadata/image-limits.js';
import { invalidPicture } from './picture-error.js';
import { type Thumbnail, thumbnailOf } from './thumbnail.js';

/**
 * Warnings of libjpeg for complete photographs of some phones. Any other warning means missing or corrupt image data. libvips
 * tells the text of the first warning only, and the number of all.
 */
const HARMLESS_JPEG_WARNING =
  /Invalid SOS parameters|extraneous bytes before marker|Unknown Adobe color|JFIF/;

/** Bytes left behind a scan that is not the last one: browsers do not show the picture, unless it is progressive. */
const BYTES_BETWEEN_SCANS = /extraneous bytes before marker 0x(?!d9)/;

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
 * Reads the header of a picture, then decodes the whole picture once, with all frames, to find out whether it is complete.
 * For an animation, sharp builds a list of all frames on the event loop. The caller must have limited their number before.
 *
 * @param withThumbnail whether to make the thumbnail of the decoded pixels, where that takes less time than to decode twice
 * @throws PictureError with a sentence that names the reason
 */
export async function inspect(
  bytes: Buffer,
  format: ImageFormat,
  withThumbnail = false,
): Promise<{ readonly image: InspectedImage; readonly thumbnail: Thumbnail | undefined }> {
  const header = await readHeader(bytes, format);
  const { width, height } = header.autoOrient;
  const image: InspectedImage = {
    mimeType: `image/${format}`,
    extension: format === 'jpeg' ? 'jpg' : format,
    width,
    height: header.pageHeight ?? height,
  };
  if (withThumbnail && hasOneFrame(header) && header.space !== 'cmyk')
    try {
      return { image, thumbnail: await decodeToThumbnail(bytes, format, header) };
    } catch {
      // Whether the picture or only its thumbnail is the reason, shows without the thumbnail.
    }
  try {
    await decode(bytes, format, header);
  } catch (error) {
    throw invalidPicture('The image is damaged or incomplete. Please send it again.', error);
  }
  return { image, thumbnail: undefined };
}

/** Reads the header of a picture without decoding pixels, and checks the size of the picture. */
async function readHeader(bytes: Buffer, format: ImageFormat): Promise<Metadata> {
  const header = await sharp(bytes, { animated: true, limitInputPixels: false })
    .metadata()
    .catch((error: unknown) => {
      throw invalidPicture('The image is damaged. Please send it again.', error);
    });
  if (header.format !== format) throw invalidPicture('The image is damaged. Please send it again.');
  // Decoders use the size of the first frame. Viewers may use the logical screen size of a GIF.
  const screen = format === 'gif' ? bytes.readUInt16LE(6) * bytes.readUInt16LE(8) : 0;
  // All frames of an animation together have a limit of their own, which cleaning has checked.
  const pixels = Math.max(header.width * (header.pageHeight ?? header.height), screen);
  if (pixels === 0) throw invalidPicture('The image is damaged. Please send it again.');
  if (pixels > MAX_PIXELS)
    throw invalidPicture('The image has more than 50 megapixels. Please send a smaller one.');
  return header;
}

function pictureOf(bytes: Buffer, failOn: FailOnOptions): Sharp {
  return sharp(bytes, {
    failOn,
    sequentialRead: true,
    animated: true,
    limitInputPixels: IMAGE_LIMITS.animationPixels,
    // Colours do not matter here.
    ignoreIcc: true,
  });
}

/** Decodes a whole picture. The output is one pixel, which needs little memory, and is thrown away. */
async function decode(bytes: Buffer, format: ImageFormat, { height }: Metadata): Promise<void> {
  if (format !== 'jpeg') {
    await pictureOf(bytes, 'error').resize(1, 1, { fit: 'fill' }).raw().toBuffer();
    return;
  }
  // The decoder can't skip lines to get to the last one.
  const lastLine = { left: 0, top: height - 1, width: 1, height: 1 };
  await withoutHarm(bytes, (picture) => picture.extract(lastLine).raw().toBuffer());
}

/** Decodes a whole picture, and makes its thumbnail of the pixels. */
function decodeToThumbnail(bytes: Buffer, format: ImageFormat, header: Metadata): Promise<Thumbnail> {
  if (format !== 'jpeg') return thumbnailOf(pictureOf(bytes, 'error'), format, header);
  const { width, height } = header;
  return withoutHarm(bytes, (picture) =>
    // With an extract, even of everything, sharp does not let libjpeg shrink the picture.
    thumbnailOf(picture.extract({ left: 0, top: 0, width, height }), format, header),
  );
}

/**
 * Decodes a JPEG, and judges all warnings: stopping at the first one could hide another. The output must not shrink the
 * picture while it is decoded: libjpeg does not tell then what is missing of the last lines. libvips keeps the warnings of a
 * process together, so a process decodes one picture at a time.
 */
async function withoutHarm<T>(bytes: Buffer, output: (picture: Sharp) => Promise<T>): Promise<T> {
  const warnings: string[] = [];
  const picture = pictureOf(bytes, 'none').on('warning', (warning: string) => warnings.push(warning));
  const result = await output(picture);
  expectHarmless(warnings, bytes);
  return result;
}

const hasOneFrame = ({ pages = 1 }: Metadata): boolean => pages === 1;

/** @throws Error when a warning of libjpeg means that data of the picture are missing or corrupt */
function expectHarmless(warnings: readonly string[], bytes: Buffer): void {
  const counts = warnings.map((warning) => Number(/read gave (\d+) warnings/.exec(warning)?.[1] ?? 0));
  const count = Math.max(0, ...counts);
  if (count === 0) return;
  const texts = warnings.filter((_, index) => counts[index] === 0);
  const [unknown] = texts
    .flatMap((text) => text.split('\n'))
    .filter((line) => line && (!HARMLESS_JPEG_WARNING.test(line) || isBetweenScans(line, bytes)));
  if (unknown !== undefined || texts.length === 0) throw new Error(unknown ?? 'The JPEG gave warnings.');
  if (count > Math.max(1, harmlessOddities(bytes)))
    throw new Error(`The JPEG gave ${count} warnings: ${texts[0] ?? ''}`);
}

const isBetweenScans = (line: string, bytes: Buffer): boolean =>
  BYTES_BETWEEN_SCANS.test(line) && !isProgressive(bytes);
