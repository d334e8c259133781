import { rgbaToThumbHash } from 'thumbhash';
import sharp from 'sharp';
import type { ImageFormat } from './image-format.js';
import { IMAGE_LIMITS } from './image-metadata/image-limits.js';

/** The longest side of a thumbnail, in pixels. */
export const THUMBNAIL_PIXELS = 640;

/** The longest side of the picture that is hashed. ThumbHash keeps at most seven waves on each side. */
const HASHED_PIXELS = 32;

const JPEG = { quality: 75, chromaSubsampling: '4:2:0', optimiseCoding: false };

/** A higher effort takes half as much time again, for 3 % fewer bytes. */
const WEBP = { quality: 75, effort: 2 };

/** A small picture for lists of chats: upright, sRGB, the first frame of an animation, without any metadata. */
export type Thumbnail = {
  readonly bytes: Buffer;
  /** JPEG for a JPEG, else WebP, which keeps transparency. */
  readonly mimeType: 'image/jpeg' | 'image/webp';
  /** In pixels. */
  readonly width: number;
  readonly height: number;
  /** ThumbHash in base64: a placeholder of fewer than 40 characters. */
  readonly hash: string;
};

/**
 * Makes the thumbnail of a picture that has been decoded in full. A second decoding that shrinks takes less time than
 * making the thumbnail of the decoded pixels: colours are converted after the shrinking.
 */
export async function makeThumbnail(bytes: Buffer, format: ImageFormat): Promise<Thumbnail> {
  // Complaints of the decoder were judged before.
  const small = sharp(bytes, {
    failOn: 'none',
    sequentialRead: true,
    pages: 1,
    limitInputPixels: IMAGE_LIMITS.animationPixels,
  })
    .autoOrient()
    .resize(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, { fit: 'inside', withoutEnlargement: true })
    .toColourspace('srgb');
  const { data, info } = await (format === 'jpeg' ? small.jpeg(JPEG) : small.webp(WEBP)).toBuffer({
    resolveWithObject: true,
  });
  return {
    bytes: data,
    mimeType: format === 'jpeg' ? 'image/jpeg' : 'image/webp',
    width: info.width,
    height: info.height,
    hash: await hashOf(data),
  };
}

async function hashOf(thumbnail: Buffer): Promise<string> {
  const { data, info } = await sharp(thumbnail)
    .resize(HASHED_PIXELS, HASHED_PIXELS, { fit: 'inside', withoutEnlargement: true })
    .ensureAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  return Buffer.from(rgbaToThumbHash(info.width, info.height, data)).toString('base64');
}
