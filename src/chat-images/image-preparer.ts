import { Injectable } from '@nestjs/common';
import { subtle } from 'node:crypto';
import { availableParallelism } from 'node:os';
import pLimit from 'p-limit';
import { decode, detectFormat, type InspectedImage, invalidImage, readHeader } from './image-inspector.js';
import { MalformedImageError, withoutMetadata } from './image-metadata.js';

/** A picture as it will be stored. */
export type PreparedImage = InspectedImage & {
  /** Without metadata; not a pixel is changed. */
  readonly bytes: Buffer;
  /** SHA-256 of `bytes`, in hexadecimal. */
  readonly sha256: string;
};

/** Makes of the bytes that a client sent the picture that is stored: checked, and without what identifies anybody. */
@Injectable()
export class ImagePreparer {
  /** Decoding takes a processor and memory: as many at a time as there are processors, and one of the heavy ones. */
  private readonly limit = pLimit(availableParallelism());
  private readonly heavyLimit = pLimit(1);

  /**
   * @param sha256 of `bytes`, in hexadecimal
   * @throws AppError INVALID_IMAGE with a sentence that names the reason
   */
  async prepare(bytes: Buffer, sha256: string): Promise<PreparedImage> {
    const { cleaned, header } = await this.limit(async () => {
      const format = detectFormat(bytes);
      const withoutMetadata = clean(bytes, format);
      return { cleaned: withoutMetadata, header: await readHeader(withoutMetadata, format) };
    });
    // What is decoded is what is stored.
    const check = (): Promise<void> => this.limit(() => decode(cleaned, header.format));
    await (header.heavy ? this.heavyLimit(check) : check());
    const { mimeType, extension, width, height } = header;
    const unchanged = cleaned.equals(bytes);
    return {
      mimeType,
      extension,
      width,
      height,
      bytes: cleaned,
      sha256: unchanged ? sha256 : await digest(cleaned),
    };
  }
}

function clean(bytes: Buffer, format: Parameters<typeof withoutMetadata>[1]): Buffer {
  try {
    return withoutMetadata(bytes, format);
  } catch (error) {
    if (error instanceof MalformedImageError)
      throw invalidImage('The image is damaged or incomplete. Please send it again.', error);
    throw error;
  }
}

/** On another thread: ten megabytes would hold this one up. */
async function digest(bytes: Buffer): Promise<string> {
  return Buffer.from(await subtle.digest('SHA-256', bytes)).toString('hex');
}
