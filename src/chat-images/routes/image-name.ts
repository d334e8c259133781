import type { Request } from 'express';
import type { ImageAddress, ImageReference } from '../../access/image-access.js';
import { parseId } from '../../database/parse-id.js';
import { appointmentFolder, textSessionFolder } from '../entities/chat-image-path.js';

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

/** Reads the parameters of a stable address. Old pictures of text sessions are in folders of their own. */
export function imageAddress(params: Request['params']): ImageAddress | undefined {
  const image = imageByFilename(String(params.filename));
  const appointmentId = parseId(String(params.appointmentId));
  const textSessionId = parseId(String(params.textSessionId));
  const folder =
    appointmentId === undefined
      ? textSessionId && textSessionFolder(textSessionId)
      : appointmentFolder(appointmentId);
  return image && folder ? { ...image, filePath: `${folder}/${image.filename}` } : undefined;
}

/** A text that can't be a file name is not looked up: PostgreSQL refuses some of them. */
function imageByFilename(filename: string): { readonly filename: string } | undefined {
  return filename.length <= MAX_FILENAME_LENGTH && /^[\w-][\w.-]*$/.test(filename) ? { filename } : undefined;
}
