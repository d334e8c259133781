import type { Request } from 'express';
import type { ImageAddress, ImageReference } from '../../access/image-access.js';
import type { Conversation } from '../../conversations/conversation.js';
import { parseId } from '../../database/parse-id.js';
import { conversationFolder } from '../entities/chat-image-path.js';

/** The column's length: a longer name can't be in the table. */
const MAX_FILENAME_LENGTH = 255;

/**
 * Reads how apps in the field name an image: by its number or by its file name.
 *
 * @returns `undefined` for a text that names no image
 */
export function imageReference(text: unknown): ImageReference | undefined {
  if (typeof text !== 'string') return undefined;
  const id = parseId(text);
  return id === undefined ? imageByFilename(text) : { id };
}

/** An image at a stable address, and the conversation in its path. */
export type ConversationImageAddress = ImageAddress & { readonly conversation: Conversation };

/** Reads the parameters of a stable address. */
export function imageAddress(params: Request['params']): ConversationImageAddress | undefined {
  const image = imageByFilename(String(params.filename));
  const { kind, id } = conversationInPath(params);
  if (!image || id === undefined) return undefined;
  const conversation = { kind, id };
  return { ...image, filePath: `${conversationFolder(conversation)}/${image.filename}`, conversation };
}

/** Reads the parameter `appointmentId` or `textSessionId`. The id is `undefined` where it can't be one. */
export function conversationInPath({ appointmentId, textSessionId }: Request['params']): {
  readonly kind: Conversation['kind'];
  readonly id: number | undefined;
} {
  return textSessionId === undefined
    ? { kind: 'appointment', id: parseId(String(appointmentId)) }
    : { kind: 'text session', id: parseId(String(textSessionId)) };
}

/** A text that can't be a file name is not looked up: PostgreSQL refuses some of them. */
function imageByFilename(filename: string): { readonly filename: string } | undefined {
  return filename.length <= MAX_FILENAME_LENGTH && /^[\w-][\w.-]*$/.test(filename) ? { filename } : undefined;
}
