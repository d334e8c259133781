import { Inject, Injectable, Logger } from '@nestjs/common';
import { SETTINGS, type Settings } from '../config/settings.js';
import { type BytePieces, lengthOf, rangeOf } from '../storage/byte-pieces.js';
import { decodeMemory, LIGHT_DECODE_BYTES, MAX_DECODE_BYTES } from './decode-memory.js';
import { DecodeQueue } from './decode-queue.js';
import { detectFormat } from './image-format.js';
import type { InspectedImage } from './image-inspector.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { addSpan, BYTES, FORMAT, inSpan } from '../observability/spans.js';
import type { CheckedPicture, ImageEdit, PictureResult, PictureTask, PictureTimes } from './image-process.js';
import { ImageProcesses } from './image-processes.js';
import { MAX_ADDED_BYTES } from './image-metadata/kept-bytes.js';
import { invalidPicture } from './picture-error.js';
import type { Thumbnail } from './thumbnail.js';

/** A thumbnail of more bytes, or with a longer hash, comes from a decoder that was taken over. */
const MAX_THUMBNAIL_BYTES = 1024 * 1024;
const MAX_HASH_LENGTH = 40;

/** More than any step takes. A decoder that was taken over could say anything. */
const MAX_STEP_MS = 60_000;

/** The checked picture without metadata, as it will be stored. No pixel is changed. */
export type PreparedImage = InspectedImage & {
  readonly pieces: BytePieces;
  /** Bytes. */
  readonly size: number;
  /** SHA-256 of the stored picture, in hexadecimal. */
  readonly sha256: string;
  /** SHA-256 of the picture as sent by the client. */
  readonly sha256Sent: string;
  /** Where one was asked for and could be made. */
  readonly thumbnail: Thumbnail | undefined;
  readonly times: PictureTimes & { readonly waitedMs: number };
};

export type PrepareOptions = {
  /** Stores the sent bytes, with their metadata. The picture is checked and decoded all the same. */
  readonly keepBytes?: boolean;
  readonly withThumbnail?: boolean;
};

/** The user who sent a picture, and whether the client still waits. */
export type Sender = {
  readonly userId: number;
  /** Aborted when the client has disconnected. */
  readonly left: AbortSignal;
};

/** The signature of each format is within these first bytes. */
export const SIGNATURE_BYTES = 512;

/** Converts the bytes sent by a client to the picture to store. */
@Injectable()
export class ImagePreparer {
  private readonly logger = new Logger(ImagePreparer.name);
  private readonly queue: DecodeQueue;

  constructor(
    private readonly processes: ImageProcesses,
    @Inject(SETTINGS) { uploads }: Settings,
    @Inject(METRICS) private readonly metrics?: Metrics,
  ) {
    this.queue = new DecodeQueue({
      slots: uploads.decodeProcesses,
      slotsPerUser: Math.max(1, uploads.decodeProcesses - 1),
      lightBytes: LIGHT_DECODE_BYTES,
      heavyBytes: MAX_DECODE_BYTES,
      maxWaitMs: uploads.waitMs,
    });
    metrics?.watchDecodeQueue(uploads.decodeProcesses, this.queue);
  }

  /** @throws PictureError */
  async prepare(
    pieces: BytePieces,
    { userId, left }: Sender,
    { keepBytes = false, withThumbnail = false }: PrepareOptions = {},
  ): Promise<PreparedImage> {
    const format = detectFormat(Buffer.concat(rangeOf(pieces, 0, SIGNATURE_BYTES)));
    const memoryBytes = decodeMemory(pieces, format);
    if (memoryBytes > MAX_DECODE_BYTES)
      throw invalidPicture('The image takes too much memory to read. Please send it as JPEG.');
    let waitedMs = 0;
    const result = await this.queue.run(userId, memoryBytes, left, (waited) => {
      waitedMs = waited;
      this.metrics?.decodeWaited(waited);
      return this.decode(pieces, { format, memoryBytes, keepBytes, withThumbnail });
    });
    if ('failure' in result) throw new Error(result.failure);
    if ('refusal' in result) throw invalidPicture(result.refusal, new Error(result.detail));
    const { image, sha256Sent, edit } = result;
    const { length: size, sha256 } = edit;
    const thumbnail = withThumbnail ? this.thumbnailOf(result) : undefined;
    const times = { ...boundedTimes(result.times), waitedMs };
    return { ...image, pieces: applyEdit(pieces, edit), size, sha256, sha256Sent, thumbnail, times };
  }

  /** The span is the time in the decoding process. Cleaning is the first step there. */
  private decode(pieces: BytePieces, task: Omit<PictureTask, 'length'>): Promise<PictureResult> {
    const work = async (): Promise<PictureResult> => {
      const startedAt = Date.now();
      const result = await this.processes.run(pieces, task);
      if ('times' in result) addSpan('clean', startedAt, boundedTimes(result.times).cleanMs);
      return result;
    };
    return inSpan('decode', work, { [FORMAT]: task.format, [BYTES]: lengthOf(pieces) });
  }

  private thumbnailOf({ thumbnail }: CheckedPicture): Thumbnail | undefined {
    if (thumbnail && 'bytes' in thumbnail) {
      if (thumbnail.bytes.length > MAX_THUMBNAIL_BYTES || thumbnail.hash.length > MAX_HASH_LENGTH)
        throw new Error('The decoding process has made a thumbnail that is too large.');
      return { ...thumbnail, bytes: Buffer.from(thumbnail.bytes) };
    }
    this.logger.warn(`a picture gets no thumbnail: ${thumbnail?.failure ?? 'a decoding process ended'}`);
    return undefined;
  }
}

function boundedTimes({ cleanMs, decodeMs }: PictureTimes): PictureTimes {
  const bounded = (ms: number): number => Math.min(Math.max(ms, 0) || 0, MAX_STEP_MS);
  return {
    cleanMs: bounded(cleanMs),
    decodeMs: bounded(decodeMs),
  };
}

/**
 * Builds the cleaned picture from the edit of the decoding process, without copying bytes. The storage compares the picture
 * with its digest.
 */
function applyEdit(source: BytePieces, { length, copies, inserted }: ImageEdit): BytePieces {
  const insertedBytes = Buffer.from(inserted.buffer, inserted.byteOffset, inserted.byteLength);
  const pieces: Buffer[] = [];
  let written = 0;
  let used = 0;
  for (let index = 0; index <= copies.length; index += 3) {
    const [to = length, from = 0, count = 0] = copies.slice(index, index + 3);
    pieces.push(insertedBytes.subarray(used, used + to - written), ...rangeOf(source, from, from + count));
    used += to - written;
    written = to + count;
  }
  if (lengthOf(pieces) !== length || length > lengthOf(source) + MAX_ADDED_BYTES)
    throw new Error('The cleaned picture has another length than the decoding process has said.');
  return pieces.filter((piece) => piece.length > 0);
}
