import { Injectable } from '@nestjs/common';
import { availableParallelism } from 'node:os';
import pLimit from 'p-limit';
import { type CleanedImage, ImageCleaner } from './image-cleaner.js';
import { decode, detectFormat, type InspectedImage, readHeader } from './image-inspector.js';

/** A picture as it will be stored: checked, and without metadata. Not a pixel is changed. */
export type PreparedImage = InspectedImage & CleanedImage;

/** Makes of the bytes that a client sent the picture that is stored. */
@Injectable()
export class ImagePreparer {
  /** Decoding takes a processor and memory: as many at a time as there are processors, and one of the heavy ones. */
  private readonly limit = pLimit(availableParallelism());
  private readonly heavyLimit = pLimit(1);

  constructor(private readonly cleaner: ImageCleaner) {}

  /**
   * @param bytes may be gone afterwards
   * @throws AppError INVALID_IMAGE with a sentence that names the reason
   */
  async prepare(bytes: Buffer<ArrayBuffer>): Promise<PreparedImage> {
    const format = detectFormat(bytes);
    const cleaned = await this.cleaner.clean(bytes, format);
    const { heavy, ...header } = await readHeader(cleaned.bytes, format);
    // What is decoded is what is stored.
    const check = (): Promise<void> => this.limit(() => decode(cleaned.bytes, format));
    await (heavy ? this.heavyLimit(check) : check());
    return { ...header, ...cleaned };
  }
}
