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
 * Copies a picture without anything that can tell who, where or with what it was taken, and without anything that
 * follows or hides beside the image data. What decodes to pixels is copied as it is, so no pixel changes.
 *
 * Only what is known to be needed is kept: image data, the colour profile, the orientation, what an animation needs.
 * The rest is dropped, be it known or not: EXIF, XMP, IPTC, comments, maker notes, thumbnails, text, second pictures.
 * The orientation is read from EXIF and written back as EXIF of that one tag; one stated in XMP alone is lost, as
 * browsers do not honour it either.
 *
 * Not covered, as it would take an encoder and change bytes that make pixels: data drawn into the pixels themselves,
 * inside the colour profile, or where a decoder skips it silently within compressed data. Each format's file says
 * which those places are.
 *
 * Linear in time, and never more than 64 bytes larger than the input. No npm library does this without loss for these
 * formats: exif-be-gone 1.5.1, the one that comes nearest, removes what it knows instead of keeping what it knows, leaves
 * JPEG comments and IPTC, loses the orientation and has no GIF; piexifjs reads JPEG's EXIF only.
 *
 * @throws MalformedImageError when the structure of the file is broken
 * @throws ImageLimitError when reading it would cost more than any real picture does, see IMAGE_LIMITS; and nothing else
 */
export function withoutMetadata(bytes: Buffer, format: ImageFormat): CleanedImage {
  return CLEANERS[format](bytes);
}
