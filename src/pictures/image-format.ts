import { invalidPicture } from './picture-error.js';

/** Maximum number of pixels of a picture, or of a frame of an animation. */
export const MAX_PIXELS = 50_000_000;

export type ImageFormat = 'jpeg' | 'png' | 'gif' | 'webp';

/**
 * Detects the format by the signature of the bytes.
 *
 * @throws PictureError with a sentence that names the format of the bytes, if known
 */
export function detectFormat(bytes: Buffer): ImageFormat {
  if (bytes.length === 0) throw invalidPicture('The file is empty.');
  const ascii = bytes.toString('latin1', 0, 512);
  if (ascii.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (ascii.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (/^GIF8[79]a/.test(ascii)) return 'gif';
  if (/^RIFF.{4}WEBP/s.test(ascii)) return 'webp';
  if (/^.{4}ftyp(hei|hev|mif1|msf1)/s.test(ascii)) {
    throw invalidPicture('HEIC images are not supported. Please send it as JPEG.');
  }
  if (/^.{4}ftypavi/s.test(ascii))
    throw invalidPicture('AVIF images are not supported. Please send it as JPEG.');
  if (/^\s*%PDF-/.test(ascii)) throw invalidPicture('A PDF is not an image. Please send a JPEG or PNG.');
  if (/<svg\b/i.test(ascii)) throw invalidPicture('SVG images are not supported. Please send a JPEG or PNG.');
  if (/^[^<]{0,8}\s*<(!doctype html|html|head|body|script|!--)/i.test(ascii)) {
    throw invalidPicture('An HTML page is not an image. Please send a JPEG or PNG.');
  }
  throw invalidPicture('The file is not a JPEG, PNG, GIF or WebP image.');
}
