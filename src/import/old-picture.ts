import type { Conversation } from '../conversations/conversation.js';
import { parseId } from '../database/parse-id.js';

/** A picture of the previous system. Every field is read from its path. */
export type OldPicture = {
  /** The path in the source, and in this service's storage: `chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg`. */
  readonly filePath: string;
  readonly filename: string;
  readonly conversation: Conversation;
  /** The time in the file name. */
  readonly uploadedAt: Date;
};

/** Why a file of a source is no picture of a chat. Such files are counted and reported, never touched. */
export type UnknownFile =
  'folder of something else' | 'folder of no conversation' | 'other file name' | 'symbolic link' | 'no file';

const PATH =
  /^chat_images\/(?<folder>(?<kind>appointment|text_session)_(?<id>\d+))\/(?<filename>(?<seconds>\d{9,10})_[A-Za-z0-9]{10}(?:\.[A-Za-z0-9]{1,5})?)$/;

/** @returns `undefined` for a path that has not the form of the previous system's pictures */
export function parseOldPicture(filePath: string): OldPicture | undefined {
  const { folder, kind, id: digits = '', filename, seconds } = PATH.exec(filePath)?.groups ?? {};
  const id = parseId(digits);
  if (id === undefined || folder === undefined || filename === undefined) return undefined;
  return {
    filePath,
    filename,
    conversation: { kind: kind === 'appointment' ? 'appointment' : 'text session', id },
    uploadedAt: new Date(Number(seconds) * 1000),
  };
}

/** @returns why {@link parseOldPicture} does not know a file */
export function kindOfUnknown(filePath: string): UnknownFile {
  const [top, folder = '', ...rest] = filePath.split('/');
  if (top !== 'chat_images') return 'folder of something else';
  if (rest.length !== 1 || !/^(appointment|text_session)_[1-9]\d*$/.test(folder))
    return 'folder of no conversation';
  return 'other file name';
}
