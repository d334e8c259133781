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

/** A new name `{unix seconds}_{10 random of A-Za-z0-9}.{extension}`, the random part from a CSPRNG. */
export function newFilename(now: Date, extension: string): string {
  const random = Array.from({ length: RANDOM_LENGTH }, () =>
    ALPHABET.charAt(randomInt(ALPHABET.length)),
  ).join('');
  return `${Math.floor(now.getTime() / 1000)}_${random}.${extension}`;
}
