import type { ImageFormat } from './image-format.js';
import { gifWithoutMetadata } from './image-metadata/gif.js';
import { jpegWithoutMetadata } from './image-metadata/jpeg.js';
import type { CleanedImage } from './image-metadata/kept-bytes.js';
import { pngWithoutMetadata } from './image-metadata/png.js';
import { webpWithoutMetadata } from './image-metadata/webp.js';

export type { CleanedImage } from './image-metadata/kept-bytes.js';
export { ImageLimitError } from './image-metadata/image-limit-error.js';
export { MalformedImageError } from './image-metadata/malformed-image-error.js';

const CLEANERS: Readonly<Record<ImageFormat, (bytes: Buffer) => CleanedImage>> = {
  jpeg: jpegWithoutMetadata,
  png: pngWithoutMetadata,
  gif: gifWithoutMetadata,
  webp: webpWithoutMetadata,
};

/**
 * Copies a picture without metadata (person, place, device), and without hidden data beside or after the image data.
 * Image data is copied unchanged, so no pixel changes.
 *
 * Allow-list: only image data, the colour profile, the orientation and the structure of an animation are kept. Everything
 * else is dropped, known or unknown: EXIF, XMP, IPTC, comments, maker notes, thumbnails, text, second pictures. The
 * orientation is read from EXIF and written back as EXIF with this one tag. An orientation in XMP only is lost; browsers
 * ignore XMP orientation too. Of the colour profile only the numbers that colours need are kept.
 *
 * Not covered: data drawn into the pixels, and data that decoders skip silently within compressed data. Removing such data
 * takes an encoder and changes image data. `docs/decisions/metadata.md` lists what a stored file can hold.
 *
 * Linear time. The output is at most 64 bytes larger than the input; a PNG whose colour profile is compressed anew may be
 * 64 KiB larger, and a GIF four bytes for each frame without an end code. No npm library does this without loss for these formats. exif-be-gone 1.5.1 comes closest: it has a
 * deny-list instead of an allow-list, leaves JPEG comments and IPTC, loses the orientation and has no GIF. piexifjs reads
 * only EXIF of JPEG.
 *
 * @throws MalformedImageError when the structure of the file is broken
 * @throws ImageLimitError when reading the file would cost more than any real picture, see IMAGE_LIMITS
 */
export function withoutMetadata(bytes: Buffer, format: ImageFormat): CleanedImage {
  return CLEANERS[format](bytes);
}
