/*
 * The program of a decoding process. It receives one picture at a time, cleans, reads and decodes the picture, and returns
 * the result. Reasons for a separate process:
 * - The service can kill the process.
 * - A crash of a decoder does not end the service.
 * - A picture that exploits a decoder finds no key, no token and no connection.
 */
import { createHash } from 'node:crypto';
import { readSync, writeFileSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { isNativeError } from 'node:util/types';
import type { ImageFormat } from './image-format.js';
import { invalidPicture, PictureError } from './picture-error.js';
import type { InspectedImage } from './image-inspector.js';
import type { CleanedImage } from './image-metadata.js';
import type { Thumbnail } from './thumbnail.js';

/** File descriptor of the shared file with the picture. Descriptor 3 is the IPC channel. */
const PICTURE_FD = 4;

/** Message from the service: a picture is ready in the shared file. */
export type PictureTask = {
  readonly format: ImageFormat;
  /** The size of the picture, in bytes. */
  readonly length: number;
  /** Memory limit for decoding. */
  readonly memoryBytes: number;
  /** Whether to return the sent bytes, with their metadata. The picture is checked and decoded all the same. */
  readonly keepBytes: boolean;
  readonly withThumbnail: boolean;
};

/** The picture is acceptable. The cleaned picture is not in the message, but the edit that makes it from the sent bytes. */
export type CheckedPicture = {
  readonly image: InspectedImage;
  /** SHA-256 of the picture as sent by the client, in hexadecimal. */
  readonly sha256Sent: string;
  readonly edit: ImageEdit;
  readonly times: PictureTimes;
  /** Where one was asked for: the thumbnail, or why the picture gets none. */
  readonly thumbnail?: Thumbnail | { readonly failure: string };
  /** The process ends after this message. */
  readonly isLast?: true;
};

/** How long the steps have taken, in milliseconds. Decoding is the check of every pixel, with a still picture's thumbnail. */
export type PictureTimes = {
  readonly cleanMs: number;
  readonly decodeMs: number;
};

/** Message to the service. */
export type PictureResult =
  | CheckedPicture
  /** The picture is refused: a sentence for the client, and a detail for the log. */
  | {
      readonly refusal: string;
      readonly detail: string;
      /** The process ends after this message. */
      readonly isLast?: true;
    }
  /** A bug in this program. */
  | { readonly failure: string };

/** Instructions to make the cleaned picture from the sent picture. */
export type ImageEdit = {
  /** Length of the cleaned picture, in bytes. */
  readonly length: number;
  /** SHA-256 of the cleaned picture, in hexadecimal. */
  readonly sha256: string;
  /** Three numbers per copied range: target offset, source offset, length. In order, without overlap. */
  readonly copies: readonly number[];
  /** The bytes between the copied ranges, concatenated. */
  readonly inserted: Uint8Array;
};

/** CPU time limit of one picture, in milliseconds. The slowest accepted pictures take less than half of it. */
const MAX_CPU_MS = 10_000;

/** How much memory the decoder may use beyond the estimate. */
const MEMORY_SLACK_BYTES = 96 * 1024 * 1024;

/** Interval of the CPU time and memory checks while a picture is decoded. */
const CHECK_INTERVAL_MS = 20;

// Lower priority than the service: requests for URLs do not wait for decoding. Set before the libraries are loaded,
// because their threads inherit the priority.
setPriority(constants.priority.PRIORITY_BELOW_NORMAL);
preferAsOomVictim();
const { inspect } = await import('./image-inspector.js');
const { ImageLimitError, MalformedImageError, withoutMetadata } = await import('./image-metadata.js');
const { makeThumbnail } = await import('./thumbnail.js');

// Ignore signals to the process group (Ctrl+C): the service ends this process itself.
process.on('SIGINT', () => undefined).on('SIGTERM', () => undefined);
process.on('disconnect', () => process.exit());
// A message that finds no service: on Node 24 a process learns so before it is told that it is disconnected.
process.on('error', () => process.exit());
process.on('message', (task: PictureTask) => {
  void handleTask(task).then((result) => process.send?.(result));
});
// The service may have ended before the listener for `disconnect` was added.
if (!process.connected) process.exit();
process.send?.('ready');

async function handleTask({
  format,
  length,
  memoryBytes,
  keepBytes,
  withThumbnail,
}: PictureTask): Promise<PictureResult> {
  const bytes = readPicture(length);
  let checked: CheckedPicture | undefined;
  const limitCheck = enforceLimits(memoryBytes, () => checked);
  try {
    const began = performance.now();
    const cleaned = clean(bytes, format);
    const cleanedAt = performance.now();
    // The cleaned bytes are exactly the bytes that will be stored, but with `keepBytes`.
    const { image, thumbnail } = await inspect(cleaned.bytes, format, withThumbnail);
    const decodedAt = performance.now();
    const times = { cleanMs: cleanedAt - began, decodeMs: decodedAt - cleanedAt };
    const stored = keepBytes ? { bytes, copies: [0, 0, length] } : cleaned;
    const sha256Sent = sha256Of(bytes);
    const sha256 = isWhole(stored, length) ? sha256Sent : sha256Of(stored.bytes);
    checked = { image, sha256Sent, edit: editOf(stored, sha256), times };
    if (!withThumbnail) return checked;
    return { ...checked, thumbnail: thumbnail ?? (await thumbnailOf(cleaned.bytes, format)) };
  } catch (error) {
    if (!(error instanceof PictureError))
      return { failure: isNativeError(error) ? error.message : 'unknown' };
    return { refusal: error.message, detail: isNativeError(error.cause) ? error.cause.message : '' };
  } finally {
    clearInterval(limitCheck);
  }
}

/** A picture without a thumbnail is stored all the same. */
async function thumbnailOf(
  bytes: Buffer,
  format: ImageFormat,
): Promise<Thumbnail | { readonly failure: string }> {
  return makeThumbnail(bytes, format).catch((error: unknown) => ({
    failure: isNativeError(error) ? error.message : 'unknown',
  }));
}

/** Reads the picture from the shared file. */
function readPicture(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let read = 0; read < length;) {
    const count = readSync(PICTURE_FD, bytes, read, length - read, read);
    if (count === 0) throw new Error('The picture is shorter than it was said to be.');
    read += count;
  }
  return bytes;
}

/**
 * Kills the process when a picture exceeds its limit of CPU time or memory: a running library call can't be cancelled.
 *
 * @param checkedResult the result of a picture that lacks only its thumbnail: the picture is not refused then
 */
function enforceLimits(memoryBytes: number, checkedResult: () => CheckedPicture | undefined): NodeJS.Timeout {
  const { user, system } = process.cpuUsage();
  const maxRssBytes = process.memoryUsage.rss() + memoryBytes + MEMORY_SLACK_BYTES;
  const end = (refusal: string, detail: string): void => {
    const checked = checkedResult();
    const result: PictureResult = checked
      ? { ...checked, thumbnail: { failure: detail }, isLast: true }
      : { refusal, detail, isLast: true };
    process.send?.(result, () => process.kill(process.pid, 'SIGKILL'));
  };
  return setInterval(() => {
    const used = process.cpuUsage();
    if (used.user + used.system - user - system > MAX_CPU_MS * 1000)
      end('The image takes too long to read. Please send a smaller one.', 'too much time');
    if (process.memoryUsage.rss() > maxRssBytes)
      end('The image takes too much memory to read. Please send it as JPEG.', 'too much memory');
  }, CHECK_INTERVAL_MS);
}

function clean(bytes: Buffer, format: ImageFormat): CleanedImage {
  try {
    return withoutMetadata(bytes, format);
  } catch (error) {
    if (error instanceof MalformedImageError)
      throw invalidPicture('The image is damaged or incomplete. Please send it again.', error);
    if (error instanceof ImageLimitError) throw invalidPicture(error.sentence, error);
    throw error;
  }
}

/** Whether the cleaned picture is the sent one: nothing was removed. */
function isWhole({ bytes, copies: [to, from, count] }: CleanedImage, length: number): boolean {
  return to === 0 && from === 0 && count === length && bytes.length === length;
}

function editOf({ bytes, copies }: CleanedImage, sha256: string): ImageEdit {
  const inserted: Buffer[] = [];
  let written = 0;
  for (let index = 0; index < copies.length; index += 3) {
    const to = copies[index] ?? 0;
    inserted.push(bytes.subarray(written, to));
    written = to + (copies[index + 2] ?? 0);
  }
  inserted.push(bytes.subarray(written));
  return {
    length: bytes.length,
    sha256,
    copies,
    inserted: Buffer.concat(inserted),
  };
}

function sha256Of(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** When memory runs out, Linux kills this process before the service (proc(5), `oom_score_adj`). */
function preferAsOomVictim(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '1000');
  } catch {
    // Not Linux.
  }
}
