import { Inject, Injectable } from '@nestjs/common';
import { setImmediate } from 'node:timers/promises';
import { SETTINGS, type Settings } from '../config/settings.js';
import { decodeMemory, LIGHT_DECODE_BYTES, MAX_DECODE_BYTES } from './decode-memory.js';
import { DecodeQueue } from './decode-queue.js';
import { detectFormat, invalidImage } from './image-format.js';
import type { InspectedImage } from './image-inspector.js';
import type { ImageEdit } from './image-process.js';
import { ImageProcesses } from './image-processes.js';

/** A picture as it will be stored: checked, and without metadata. Not a pixel is changed. */
export type PreparedImage = InspectedImage & {
  readonly bytes: Buffer;
  /** SHA-256 of `bytes`, in hexadecimal. */
  readonly sha256: string;
};

/** Whose picture it is, and whether its sender still waits. */
export type Sender = {
  readonly userId: number;
  /** Aborted when the client has gone. */
  readonly left: AbortSignal;
};

/** How many bytes are copied before other requests have their turn. */
const COPY_BYTES = 1024 * 1024;

/** Makes of the bytes that a client sent the picture that is stored. */
@Injectable()
export class ImagePreparer {
  private readonly queue: DecodeQueue;

  constructor(
    private readonly processes: ImageProcesses,
    @Inject(SETTINGS) { uploads }: Settings,
  ) {
    this.queue = new DecodeQueue({
      slots: uploads.decodeProcesses,
      slotsPerUser: Math.max(1, uploads.decodeProcesses - 1),
      lightBytes: LIGHT_DECODE_BYTES,
      heavyBytes: MAX_DECODE_BYTES,
      maxWaitMs: uploads.waitMs,
    });
  }

  /**
   * @throws AppError INVALID_IMAGE with a sentence that names the reason; OVERLOADED when it has waited too long
   */
  async prepare(bytes: Buffer, { userId, left }: Sender): Promise<PreparedImage> {
    const format = detectFormat(bytes);
    const memoryBytes = decodeMemory(bytes, format);
    if (memoryBytes > MAX_DECODE_BYTES)
      throw invalidImage('The image takes too much memory to read. Please send it as JPEG.');
    const answer = await this.queue.run(userId, memoryBytes, left, () =>
      this.processes.run(bytes, { format, memoryBytes }),
    );
    if ('failure' in answer) throw new Error(answer.failure);
    if ('refusal' in answer) throw invalidImage(answer.refusal, new Error(answer.detail));
    const { image, edit } = answer;
    return { ...image, bytes: await edited(bytes, edit), sha256: edit.sha256 };
  }
}

/** Makes the cleaned picture, as the decoding process has made it for itself. The bucket holds it against its digest. */
async function edited(source: Buffer, { length, copies, inserted }: ImageEdit): Promise<Buffer> {
  // Of zeros: what the process leaves out must not show what was in this memory before.
  const bytes = Buffer.alloc(length);
  let written = 0;
  let used = 0;
  for (let index = 0; index <= copies.length; index += 3) {
    const [to = length, from = 0, count = 0] = copies.slice(index, index + 3);
    bytes.set(inserted.subarray(used, used + to - written), written);
    used += to - written;
    for (let copied = 0; copied < count; copied += COPY_BYTES) {
      source.copy(bytes, to + copied, from + copied, from + Math.min(count, copied + COPY_BYTES));
      if (copied > 0) await setImmediate();
    }
    written = to + count;
  }
  return bytes;
}
