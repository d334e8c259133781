import { randomInt } from 'node:crypto';
import type { Conversation } from '../../conversations/conversation.js';

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const RANDOM_LENGTH = 10;

/** The folder of all pictures in the storage. */
export const STORAGE_FOLDER = 'chat_images';

/** The folder of a conversation's pictures in the storage. */
export function conversationFolder({ kind, id }: Conversation): string {
  return `${STORAGE_FOLDER}/${kind === 'appointment' ? 'appointment' : 'text_session'}_${id}`;
}

/**
 * The key of a picture's thumbnail: `thumbs/` in the picture's folder, and the whole name with one more extension, so that it is
 * as unique as the name. The database derives the same (`chat_image_thumbnail_key`).
 *
 * @param mimeType of the picture, as its row says: a JPEG has a JPEG thumbnail, any other picture a WebP
 */
export function thumbnailKey(filePath: string, mimeType: string): string {
  const nameAt = filePath.lastIndexOf('/') + 1;
  const extension = mimeType === 'image/jpeg' ? 'jpg' : 'webp';
  return `${filePath.slice(0, nameAt)}thumbs/${filePath.slice(nameAt)}.${extension}`;
}

/**
 * Whether a key has the form of {@link thumbnailKey}, for the name of a picture of this service or of the previous system. Without
 * the picture's own extension it may be of anybody.
 */
export function isThumbnailKey(key: string): boolean {
  const [, folder = '', thumbs, name = '', ...rest] = key.split('/');
  return (
    thumbs === 'thumbs' &&
    rest.length === 0 &&
    /^(appointment|text_session)_\d+$/.test(folder) &&
    /^\d{9,10}_[A-Za-z0-9]{10}\.[A-Za-z0-9]{1,5}\.(jpg|webp)$/.test(name)
  );
}

/** A new name `{unix seconds}_{10 random of A-Za-z0-9}.{extension}`, the random part from a CSPRNG. */
export function newFilename(now: Date, extension: string): string {
  const random = Array.from({ length: RANDOM_LENGTH }, () =>
    ALPHABET.charAt(randomInt(ALPHABET.length)),
  ).join('');
  return `${Math.floor(now.getTime() / 1000)}_${random}.${extension}`;
}
