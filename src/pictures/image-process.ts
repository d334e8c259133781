/*
 * The program of a decoding process: it is given one picture at a time, cleans, reads and decodes it, and tells what it
 * found. It runs apart from the service so that it can be ended, and so that a decoder that fails, or is turned against the
 * service by a picture, has no key or token in its memory and no connection to anything.
 */
import { createHash } from 'node:crypto';
import { readSync, writeFileSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { isNativeError } from 'node:util/types';
import type { ImageFormat } from './image-format.js';
import { invalidPicture, PictureError } from './picture-error.js';
import type { InspectedImage } from './image-inspector.js';
import type { CleanedImage } from './image-metadata.js';

/** The file in which pictures are handed over: behind the channel of messages. */
const PICTURE_FD = 4;

/** A message of the service: a picture lies ready in shared memory. */
export type PictureTask = {
  readonly format: ImageFormat;
  /** How many bytes it has. */
  readonly length: number;
  /** How much memory decoding may take. */
  readonly memoryBytes: number;
  /** Whether the storage asks for the MD5. */
  readonly withMd5: boolean;
};

/** What comes back: of the picture that is to be stored only how it is made of the bytes that the service has. */
export type PictureAnswer =
  | {
      readonly image: InspectedImage;
      /** SHA-256 of the picture as it was sent, in hexadecimal. */
      readonly sha256Sent: string;
      readonly edit: ImageEdit;
    }
  /** The client's mistake: a sentence for it, and a detail for the log. */
  | {
      readonly refusal: string;
      readonly detail: string;
      /** The process ends with it. */
      readonly isLast?: true;
    }
  /** A mistake of this program. */
  | { readonly failure: string };

/** How the cleaned picture is made of the one that was sent. */
export type ImageEdit = {
  /** Length of the cleaned picture, in bytes. Its digests are in hexadecimal. */
  readonly length: number;
  readonly sha256: string;
  readonly md5: string | undefined;
  /** Three numbers for each range that is copied: to where, from where, how many bytes. In their order, without overlap. */
  readonly copies: readonly number[];
  /** What stands between the copies, joined. */
  readonly inserted: Uint8Array;
};

/** How much processor time a picture may take, in milliseconds. The worst that are accepted take less than half of it. */
const MAX_CPU_MS = 10_000;

/** By how much the decoder may be off its estimate. */
const MEMORY_SLACK_BYTES = 96 * 1024 * 1024;

/** How often time and memory are looked at while a picture is decoded. */
const WATCH_MS = 20;

// Behind the threads that answer requests: who asks for a URL does not wait for a picture to be decoded. Before the
// libraries are loaded, as their threads are born with it.
setPriority(constants.priority.PRIORITY_BELOW_NORMAL);
sacrificeFirst();
const { decode, readHeader } = await import('./image-inspector.js');
const { ImageLimitError, MalformedImageError, withoutMetadata } = await import('./image-metadata.js');

// A signal to the whole group is meant for the service, which ends this process when it needs it no more.
process.on('SIGINT', () => undefined).on('SIGTERM', () => undefined);
process.on('disconnect', () => process.exit());
process.on('message', (task: PictureTask) => {
  void answer(task).then((result) => process.send?.(result));
});
// The service may have ended before anything here listened for that.
if (!process.connected) process.exit();
process.send?.('ready');

async function answer({ format, length, memoryBytes, withMd5 }: PictureTask): Promise<PictureAnswer> {
  const bytes = receive(length);
  const watch = watchOver(memoryBytes);
  try {
    const cleaned = clean(bytes, format);
    const image = await readHeader(cleaned.bytes, format);
    // What is decoded is what is stored.
    await decode(cleaned.bytes, format);
    return { image, sha256Sent: digest('sha256', bytes), edit: editOf(cleaned, withMd5) };
  } catch (error) {
    if (!(error instanceof PictureError))
      return { failure: isNativeError(error) ? error.message : 'unknown' };
    return { refusal: error.message, detail: isNativeError(error.cause) ? error.cause.message : '' };
  } finally {
    clearInterval(watch);
  }
}

/** Takes a picture out of the file in which it is handed over. */
function receive(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let read = 0; read < length;) {
    const count = readSync(PICTURE_FD, bytes, read, length - read, read);
    if (count === 0) throw new Error('The picture is shorter than it was said to be.');
    read += count;
  }
  return bytes;
}

/** Ends the process where a picture takes more time or memory than it may. Neither can be taken back from a library. */
function watchOver(memoryBytes: number): NodeJS.Timeout {
  const { user, system } = process.cpuUsage();
  const most = process.memoryUsage.rss() + memoryBytes + MEMORY_SLACK_BYTES;
  const end = (refusal: string, detail: string): void => {
    process.send?.({ refusal, detail, isLast: true } satisfies PictureAnswer, () =>
      process.kill(process.pid, 'SIGKILL'),
    );
  };
  return setInterval(() => {
    const used = process.cpuUsage();
    if (used.user + used.system - user - system > MAX_CPU_MS * 1000)
      end('The image takes too long to read. Please send a smaller one.', 'too much time');
    if (process.memoryUsage.rss() > most)
      end('The image takes too much memory to read. Please send it as JPEG.', 'too much memory');
  }, WATCH_MS);
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

function editOf({ bytes, copies }: CleanedImage, withMd5: boolean): ImageEdit {
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
    sha256: digest('sha256', bytes),
    md5: withMd5 ? digest('md5', bytes) : undefined,
    copies,
    inserted: Buffer.concat(inserted),
  };
}

function digest(algorithm: 'sha256' | 'md5', bytes: Buffer): string {
  return createHash(algorithm).update(bytes).digest('hex');
}

/** Where memory runs out, Linux ends this process before the service (proc(5), `oom_score_adj`). */
function sacrificeFirst(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '1000');
  } catch {
    // Another system.
  }
}
