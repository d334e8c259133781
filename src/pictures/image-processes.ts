import { Inject, Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import { type ChildProcess, fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SETTINGS, type Settings } from '../config/settings.js';
import { type BytePieces, lengthOf, writePieces } from '../storage/byte-pieces.js';
import type { PictureResult, PictureTask } from './image-process.js';
import { overloaded, PictureError } from './picture-error.js';

/** The compiled program, even when this file runs as TypeScript in tests. */
const PROGRAM = fileURLToPath(new URL('../../dist/pictures/image-process.js', import.meta.url));

/**
 * Deadline for one picture in a process. The process itself limits CPU time, not elapsed time. This deadline covers a
 * process that hangs, and an overloaded machine.
 */
const DEADLINE_MS = 15_000;

/** Tries per picture. One retry after a process ended by itself, because the picture may not be the cause. */
const ATTEMPTS = 2;

/**
 * Settings of malloc (mallopt(3)). Buffers up to the size of a picture stay in the process for the next picture, because new
 * pages cost page faults. Larger buffers are returned to the system.
 */
const ENVIRONMENT = {
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: String(12 * 1024 * 1024),
  MALLOC_TRIM_THRESHOLD_: String(24 * 1024 * 1024),
  UV_THREADPOOL_SIZE: '1',
};

/**
 * The folder of the shared files: shared memory on Linux, the folder for temporary files elsewhere (developers' machines).
 * A pipe would transfer a picture in chunks of 200 KB, with one event loop turn per chunk.
 */
const SHARED_MEMORY = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

/** A decoding process, and the unlinked file through which it receives pictures. */
type DecodingProcess = { readonly child: ChildProcess; readonly picture: FileHandle };

/** A process ended without a result. */
class ProcessEndedError extends Error {
  override readonly name = 'ProcessEndedError';
}

/** A process did not start: it ended, or the start took too long. The picture is not the cause. */
class ProcessNotReadyError extends Error {
  override readonly name = 'ProcessNotReadyError';
}

/**
 * Pool of decoding processes. Each process decodes one picture at a time. The processes get only pictures from the service:
 * no environment variables, no connections. A process that misses the deadline is killed and replaced.
 */
@Injectable()
export class ImageProcesses implements OnApplicationShutdown {
  private readonly logger = new Logger(ImageProcesses.name);
  private readonly idle: DecodingProcess[] = [];
  /** All running processes, each with a promise of its end. */
  private readonly all = new Map<DecodingProcess, Promise<unknown>>();
  /** No process starts any more: nothing would end it. */
  private isStopping = false;
  /** @internal shortened by tests */
  deadlineMs = DEADLINE_MS;

  constructor(@Inject(SETTINGS) private readonly settings: Settings) {}

  /**
   * Starts all processes, so that the first pictures need not wait. A process that starts too slowly, on a busy machine, is
   * started again when needed.
   *
   * @throws ProcessNotReadyError when a process ends at start, such as in an incomplete installation
   */
  async start(): Promise<void> {
    const { decodeProcesses } = this.settings.uploads;
    const started = await Promise.allSettled(Array.from({ length: decodeProcesses }, () => this.spawn()));
    for (const outcome of started) {
      if (outcome.status === 'fulfilled') this.idle.push(outcome.value);
      else if (!isSlowStart(outcome.reason)) throw outcome.reason;
      else this.logger.warn('a decoding process takes too long to start');
    }
  }

  /**
   * Cleans, reads and decodes a picture in a process. The caller limits the calls at the same time to the number of
   * processes.
   *
   * @throws PictureError when no process is ready in time, or the shared file has no space for the picture
   */
  async run(pieces: BytePieces, task: Omit<PictureTask, 'length'>): Promise<PictureResult> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        // A retry uses a new process: the idle processes may have ended for the same reason.
        const decoder = (attempt === 1 ? this.idle.pop() : undefined) ?? (await this.spawn());
        return await this.attempt(decoder, pieces, {
          ...task,
          length: lengthOf(pieces),
          // The thumbnail may be what has ended the process.
          withThumbnail: task.withThumbnail && attempt === 1,
        });
      } catch (error) {
        if (error instanceof ProcessNotReadyError) throw overloaded('No decoding process is ready.', error);
        if (!(error instanceof ProcessEndedError)) throw error;
        this.logger.warn(`a decoding process ended: ${error.message}`);
        if (attempt < ATTEMPTS) continue;
        return {
          refusal: 'The image is damaged or incomplete. Please send it again.',
          detail: error.message,
        };
      }
    }
  }

  async onApplicationShutdown(): Promise<void> {
    this.isStopping = true;
    for (const { child } of this.all.keys()) child.kill('SIGKILL');
    await Promise.all(this.all.values());
  }

  private async attempt(
    decoder: DecodingProcess,
    pieces: BytePieces,
    task: PictureTask,
  ): Promise<PictureResult> {
    const { child, picture } = decoder;
    try {
      await writePieces(picture, pieces).catch((cause: unknown) => {
        throw overloaded('There is no room to hand a picture over.', cause);
      });
      child.send(task);
      const result = await this.nextMessage(child);
      if (!('isLast' in result)) this.idle.push(decoder);
      return result;
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  private async spawn(): Promise<DecodingProcess> {
    const picture = await openUnlinkedFile();
    if (this.isStopping) {
      await picture.close();
      throw new ProcessNotReadyError('The service stops.');
    }
    const child = fork(PROGRAM, [], {
      env: ENVIRONMENT,
      execArgv: [],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc', picture.fd],
    });
    const decoder = { child, picture };
    const ended = new Promise<void>((resolve) => {
      child.once('close', () => {
        this.all.delete(decoder);
        const index = this.idle.indexOf(decoder);
        if (index !== -1) this.idle.splice(index, 1);
        resolve(picture.close());
      });
    });
    this.all.set(decoder, ended);
    // The `close` event handles errors as well.
    child.on('error', () => undefined);
    try {
      await this.nextMessage(child);
      return decoder;
    } catch (error) {
      child.kill('SIGKILL');
      throw new ProcessNotReadyError('A decoding process does not start.', { cause: error });
    }
  }

  /** The next message of a process. */
  private nextMessage(child: ChildProcess): Promise<PictureResult> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        child.off('message', received).off('exit', ended).off('error', failed);
      };
      const received = (message: unknown): void => {
        settle();
        resolve(message as PictureResult);
      };
      const ended = (code: number | null, signal: NodeJS.Signals | null): void => {
        settle();
        reject(new ProcessEndedError(signal ?? `code ${code}`));
      };
      const failed = (error: Error): void => {
        settle();
        reject(new ProcessEndedError(error.name));
      };
      const timer = setTimeout(() => {
        settle();
        reject(overloaded('A picture took too long to decode.'));
      }, this.deadlineMs);
      child.on('message', received).on('exit', ended).on('error', failed);
    });
  }
}

const isSlowStart = (error: unknown): boolean =>
  error instanceof ProcessNotReadyError && error.cause instanceof PictureError;

/** An open file without a name. The system deletes it when the last process closes it. */
async function openUnlinkedFile(): Promise<FileHandle> {
  const path = join(SHARED_MEMORY, `chat-image-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}
