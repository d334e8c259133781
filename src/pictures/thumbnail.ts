import { rgbaToThumbHash } from 'thumbhash';
import sharp, { type Metadata, type Sharp } from 'sharp';
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

/** Makes the thumbnail of a picture that is known to be whole. */
export async function makeThumbnail(bytes: Buffer, format: ImageFormat): Promise<Thumbnail> {
  const picture = sharp(bytes, {
    // Complaints of the decoder were judged before.
    failOn: 'none',
    sequentialRead: true,
    pages: 1,
    limitInputPixels: IMAGE_LIMITS.animationPixels,
  });
  return encode(shrink(picture), format);
}

/**
 * Makes the thumbnail of a picture while it is decoded.
 *
 * @param picture ignores its colour profile. Colours are converted after the shrinking, which takes a fraction of the time.
 */
export async function thumbnailOf(
  picture: Sharp,
  format: ImageFormat,
  { hasProfile }: Metadata,
): Promise<Thumbnail> {
  const small = shrink(picture);
  if (!hasProfile) return encode(small, format);
  return makeThumbnail(await small.keepIccProfile().png({ compressionLevel: 0 }).toBuffer(), format);
}

function shrink(picture: Sharp): Sharp {
  return picture
    .autoOrient()
    .resize(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, { fit: 'inside', withoutEnlargement: true });
}

async function encode(small: Sharp, format: ImageFormat): Promise<Thumbnail> {
  const coloured = small.toColourspace('srgb');
  const encoded = format === 'jpeg' ? coloured.jpeg(JPEG) : coloured.webp(WEBP);
  const { data, info } = await encoded.toBuffer({ resolveWithObject: true });
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
