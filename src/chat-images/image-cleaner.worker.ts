import { createHash } from 'node:crypto';
import { move, transferableSymbol, valueSymbol } from 'piscina';
import type { ImageFormat } from './image-inspector.js';
import { MalformedImageError, TooManyFramesError, withoutMetadata } from './image-metadata.js';

export type CleaningTask = { readonly bytes: Uint8Array<ArrayBuffer>; readonly format: ImageFormat };

/** The error's class would be lost on the way between threads, so a refusal is a result like any other. */
export type CleaningResult =
  | { readonly bytes: Uint8Array<ArrayBuffer>; readonly sha256: string }
  | { readonly refusal: 'damaged' | 'too many frames'; readonly detail: string };

/** {@link cleanImage} on a thread of its own, for large pictures. */
export default function cleanImageOnThread(task: CleaningTask): CleaningResult | ReturnType<typeof move> {
  const result = cleanImage(task);
  if ('refusal' in result) return result;
  // Handed over: copying ten megabytes would hold up the thread that receives them.
  return move({ [transferableSymbol]: [result.bytes.buffer], [valueSymbol]: result });
}

/** Removes a picture's metadata and takes the digest of what is left. */
export function cleanImage({ bytes, format }: CleaningTask): CleaningResult {
  try {
    const cleaned = withoutMetadata(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), format);
    return {
      bytes: cleaned as Buffer<ArrayBuffer>,
      sha256: createHash('sha256').update(cleaned).digest('hex'),
    };
  } catch (error) {
    if (error instanceof MalformedImageError) return { refusal: 'damaged', detail: error.message };
    if (error instanceof TooManyFramesError) return { refusal: 'too many frames', detail: error.message };
    throw error;
  }
}
