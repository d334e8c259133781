import { ImageLimitError, TOO_MANY_PARTS } from './image-limit-error.js';
import { IMAGE_LIMITS } from './image-limits.js';

/** Counts the parts (segments, chunks, blocks) of a file while it is parsed. */
export class PartCount {
  readonly #limit: number;
  #parts = 0;

  /** @param fileLength in bytes */
  constructor(fileLength: number) {
    this.#limit = IMAGE_LIMITS.parts + Math.floor(fileLength / IMAGE_LIMITS.bytesPerFurtherPart);
  }

  /** @throws ImageLimitError when there are more parts than the limit for this file length */
  add(): void {
    this.#parts += 1;
    if (this.#parts > this.#limit) {
      throw new ImageLimitError(TOO_MANY_PARTS, `The file has more than ${this.#limit} parts.`);
    }
  }
}
