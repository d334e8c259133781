import { randomInt } from 'node:crypto';

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const RANDOM_LENGTH = 10;

/** The folder of all pictures in the storage. */
export const STORAGE_FOLDER = 'chat_images';

/** The folder of an appointment's pictures in the storage. */
export function appointmentFolder(appointmentId: number): string {
  return `${STORAGE_FOLDER}/appointment_${appointmentId}`;
}

/** The folder of a text session's pictures in the storage. */
export function textSessionFolder(textSessionId: number): string {
  return `${STORAGE_FOLDER}/text_session_${textSessionId}`;
}

/** A new name `{unix seconds}_{10 random of A-Za-z0-9}.{extension}`, the random part from a CSPRNG. */
export function newFilename(now: Date, extension: string): string {
  const random = Array.from({ length: RANDOM_LENGTH }, () =>
    ALPHABET.charAt(randomInt(ALPHABET.length)),
  ).join('');
  return `${Math.floor(now.getTime() / 1000)}_${random}.${extension}`;
}
