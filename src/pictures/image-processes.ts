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
import type { PictureAnswer, PictureTask } from './image-process.js';
import { overloaded, PictureError } from './picture-error.js';

/** The build's, also where TypeScript is run, as in the tests. */
const PROGRAM = fileURLToPath(new URL('../../dist/pictures/image-process.js', import.meta.url));

/**
 * How long a picture may be with a process. Its own limit is of processor time; this one is for a process that hangs, and
 * for a machine that has no time for it.
 */
const DEADLINE_MS = 15_000;

/** How often a picture is tried whose process ended on its own: once more, as that may have had another cause. */
const ATTEMPTS = 2;

/**
 * Settings of malloc (mallopt(3)). Buffers up to the size of a picture stay in the process for the next picture, because fresh
 * pages cost page faults. Larger buffers go back to the system.
 */
const ENVIRONMENT = {
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: String(12 * 1024 * 1024),
  MALLOC_TRIM_THRESHOLD_: String(24 * 1024 * 1024),
  UV_THREADPOOL_SIZE: '1',
};

/**
 * The folder in which pictures are handed over: shared memory, as Linux has it. A system without it, on which only developers
 * work, has the folder for temporary files. A pipe would take a picture in pieces of 200 KB, each after a turn of the event loop.
 */
const SHARED_MEMORY = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

/** A decoding process, and the nameless file in which it is given pictures. */
type DecodingProcess = { readonly child: ChildProcess; readonly picture: FileHandle };

/** A process ended without an answer. */
class ProcessEndedError extends Error {
  override readonly name = 'ProcessEndedError';
}

/** A process is not ready: it has ended, or has not had the time for its start. Neither is the picture's fault. */
class ProcessNotReadyError extends Error {
  override readonly name = 'ProcessNotReadyError';
}

/**
 * Processes that decode pictures, each one after the other. They get nothing of the service but the pictures: no
 * environment, no connection. One that does not answer in time is killed, and another takes its place.
 */
@Injectable()
export class ImageProcesses implements OnApplicationShutdown {
  private readonly logger = new Logger(ImageProcesses.name);
  private readonly idle: DecodingProcess[] = [];
  /** Each with the end of it. */
  private readonly all = new Map<DecodingProcess, Promise<unknown>>();
  /** @internal shortened by tests */
  deadlineMs = DEADLINE_MS;

  constructor(@Inject(SETTINGS) private readonly settings: Settings) {}

  /**
   * Starts all of them, so that the first pictures need not wait. One that a busy machine has no time for is started again
   * when it is needed.
   *
   * @throws ProcessNotReadyError when they end, as they do where the installation is not whole
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
   * Has a picture cleaned, read and decoded. The caller sees to it that no more run at once than there are processes.
   *
   * @throws PictureError when no process had time for it, or there is no room to hand it over
   */
  async run(pieces: BytePieces, task: Omit<PictureTask, 'length'>): Promise<PictureAnswer> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        // Another try has a new process: what has ended one may have ended those that are idle as well.
        const decoder = (attempt === 1 ? this.idle.pop() : undefined) ?? (await this.spawn());
        return await this.attempt(decoder, pieces, { ...task, length: lengthOf(pieces) });
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
    for (const { child } of this.all.keys()) child.kill('SIGKILL');
    await Promise.all(this.all.values());
  }

  private async attempt(
    decoder: DecodingProcess,
    pieces: BytePieces,
    task: PictureTask,
  ): Promise<PictureAnswer> {
    const { child, picture } = decoder;
    try {
      await writePieces(picture, pieces).catch((cause: unknown) => {
        throw overloaded('There is no room to hand a picture over.', cause);
      });
      child.send(task);
      const answer = await this.answerOf(child);
      if (!('isLast' in answer)) this.idle.push(decoder);
      return answer;
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  private async spawn(): Promise<DecodingProcess> {
    const picture = await openNameless();
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
    // Told by its exit as well.
    child.on('error', () => undefined);
    try {
      await this.answerOf(child);
      return decoder;
    } catch (error) {
      child.kill('SIGKILL');
      throw new ProcessNotReadyError('A decoding process does not start.', { cause: error });
    }
  }

  /** The next message of a process. */
  private answerOf(child: ChildProcess): Promise<PictureAnswer> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        child.off('message', answered).off('exit', ended).off('error', failed);
      };
      const answered = (answer: unknown): void => {
        settle();
        resolve(answer as PictureAnswer);
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
      child.on('message', answered).on('exit', ended).on('error', failed);
    });
  }
}

const isSlowStart = (error: unknown): boolean =>
  error instanceof ProcessNotReadyError && error.cause instanceof PictureError;

/** A file that is gone with the last process that has it open. */
async function openNameless(): Promise<FileHandle> {
  const path = join(SHARED_MEMORY, `chat-image-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}
