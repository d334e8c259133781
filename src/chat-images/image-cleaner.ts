import { Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { cleanImage, type CleaningResult, type CleaningTask } from './image-cleaner.worker.js';
import { type ImageFormat, invalidImage } from './image-inspector.js';

/**
 * Up to so many bytes a picture is cleaned at once: in a millisecond, or in ten when it is made of tiny blocks. PNG data
 * may decompress to a thousand times as much.
 */
const SMALL_BYTES: Readonly<Record<ImageFormat, number>> = {
  jpeg: 256 * 1024,
  webp: 256 * 1024,
  gif: 64 * 1024,
  png: 1024,
};

const REFUSALS = {
  damaged: 'The image is damaged or incomplete. Please send it again.',
  'too many frames': 'The animation has too many frames. Please send a shorter one.',
} as const;

const IDLE_TIMEOUT_MS = 60_000;

const WORKER = fileURLToPath(new URL('./image-cleaner.worker.js', import.meta.url));

export type CleanedImage = {
  readonly bytes: Buffer;
  /** SHA-256 of `bytes`, in hexadecimal. */
  readonly sha256: string;
};

/** Removes what identifies people, places and devices from pictures, without holding up other requests. */
@Injectable()
export class ImageCleaner implements OnApplicationShutdown {
  /** One thread is enough, and takes pictures one after the other. None where TypeScript is run, as in the tests. */
  private readonly pool = existsSync(WORKER)
    ? new Piscina<CleaningTask, CleaningResult>({
        filename: WORKER,
        minThreads: 0,
        maxThreads: 1,
        idleTimeout: IDLE_TIMEOUT_MS,
      })
    : undefined;

  /**
   * @param bytes may be gone afterwards: they are handed to the other thread
   * @throws AppError INVALID_IMAGE when the file's structure is broken or an animation has too many frames
   */
  async clean(bytes: Buffer<ArrayBuffer>, format: ImageFormat): Promise<CleanedImage> {
    const result =
      bytes.length <= SMALL_BYTES[format] || !this.pool
        ? cleanImage({ bytes, format })
        : await this.pool.run({ bytes, format }, { transferList: transferable(bytes) });
    if ('refusal' in result) {
      throw invalidImage(REFUSALS[result.refusal], new Error(result.detail));
    }
    const { buffer, byteOffset, byteLength } = result.bytes;
    return { bytes: Buffer.from(buffer, byteOffset, byteLength), sha256: result.sha256 };
  }

  async onApplicationShutdown(): Promise<void> {
    await this.pool?.destroy();
  }
}

/** A small buffer shares its memory with others, which must stay. */
function transferable({ buffer, byteLength }: Buffer<ArrayBuffer>): ArrayBuffer[] {
  return buffer.byteLength === byteLength ? [buffer] : [];
}
