import { afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import sharp from 'sharp';
import { loadSettings } from '../config/settings.js';
import { ImageProcesses } from './image-processes.js';
import { decodingProcesses as allDecodingProcesses } from '../../test/support/decoding-processes.js';

const SECRET = 'a secret that no decoding process may know, 0123';
const settings = loadSettings({
  APP_URL: 'http://localhost:3000',
  DATABASE_URL: 'postgres://localhost/none',
  JWT_SECRET: SECRET,
  STORAGE_DRIVER: 'local',
  LOCAL_STORAGE_DIR: 'none',
  LOCAL_STORAGE_SECRET: SECRET,
  DECODE_PROCESSES: '2',
});
/** A service that starts a decoding process, prints its pid, and keeps running. */
const orphaningService = (whenReady: boolean): string => `
  import { fork } from 'node:child_process';
  const child = fork('dist/pictures/image-process.js', [], { env: {}, execArgv: [], serialization: 'advanced', stdio: ['pipe', 'ignore', 'inherit', 'ipc'] });
  if (${whenReady}) await new Promise((resolve) => child.once('message', resolve));
  console.log(child.pid);
  setInterval(() => undefined, 1000);
`;
const TASK = {
  format: 'jpeg',
  memoryBytes: 64 * 1024 * 1024,
  keepBytes: false,
  withThumbnail: false,
} as const;

/** Decoding processes that another suite has left in this process of Jest. */
const others = allDecodingProcesses();

const decodingProcesses = (): number[] => allDecodingProcesses().filter((pid) => !others.includes(pid));

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await setTimeout(5);
}

const onLinux = process.platform === 'linux' ? describe : describe.skip;

onLinux('the decoding processes', () => {
  let photo: Buffer;
  let processes: ImageProcesses;

  beforeAll(async () => {
    photo = await readFile('test/images/phone-photo.jpg');
  });

  afterEach(async () => {
    await processes.onApplicationShutdown();
    await until(() => decodingProcesses().length === 0);
  });

  const start = async (): Promise<void> => {
    processes = new ImageProcesses(settings);
    await processes.start();
  };

  /** The output of a decoding process from the kill of its service until its own end. */
  async function lastWords(whenReady: boolean): Promise<string> {
    const service = spawn(process.execPath, ['--input-type=module', '--eval', orphaningService(whenReady)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const words = text(service.stderr);
    const [pid] = (await once(service.stdout, 'data')) as [Buffer];
    service.kill('SIGKILL');
    await until(() => !existsSync(`/proc/${pid.toString().trim()}`));
    return words;
  }

  it('get no environment of the service, and a lower priority', async () => {
    process.env.JWT_SECRET_OF_THIS_TEST = SECRET;
    await start();
    const pids = decodingProcesses();
    expect(pids).toHaveLength(2);
    for (const pid of pids) {
      expect(readFileSync(`/proc/${pid}/environ`, 'utf8')).not.toContain('SECRET');
      expect(getPriority(pid)).toBe(10);
      expect(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim()).toBe('1000');
    }
  });

  it('return edits of the sent bytes instead of the cleaned picture', async () => {
    await start();
    const answer = await processes.run([photo], TASK);
    if (!('image' in answer)) throw new Error('The photograph was refused.');
    expect(answer.image).toMatchObject({ mimeType: 'image/jpeg', width: 1278, height: 720 });
    expect(answer.edit.length).toBeLessThan(photo.length);
    // The edits are small, as they do not contain the picture.
    expect(answer.edit.inserted.length + 8 * answer.edit.copies.length).toBeLessThan(1000);
  });

  it.each(['SIGKILL', 'SIGSEGV'] as const)(
    'are replaced after %s, and the picture is retried, without a thumbnail, which may be the cause',
    async (signal) => {
      const withThumbnail = { ...TASK, withThumbnail: true };
      await start();
      const before = decodingProcesses();
      for (const pid of before) process.kill(pid, 'SIGSTOP');
      const answer = processes.run([photo], withThumbnail);
      // Any of them may have the picture.
      for (const pid of before) {
        process.kill(pid, signal);
        process.kill(pid, 'SIGCONT');
      }
      expect(await answer).toHaveProperty('image.width', 1278);
      expect(await answer).not.toHaveProperty('thumbnail');
      const next = await processes.run([photo], withThumbnail);
      expect(next).toHaveProperty('image.width', 1278);
      expect(next).toMatchObject({ thumbnail: { mimeType: 'image/jpeg', width: 640, height: 361 } });
      expect(decodingProcesses().filter((pid) => before.includes(pid))).toEqual([]);
    },
  );

  it('are killed at the deadline, and the picture is refused as overloaded', async () => {
    await start();
    processes.deadlineMs = 300;
    const before = decodingProcesses();
    for (const pid of before) process.kill(pid, 'SIGSTOP');
    await expect(processes.run([photo], TASK)).rejects.toMatchObject({ failure: 'overloaded' });
    await until(() => decodingProcesses().length === 1);
    await expect(processes.run([photo], TASK)).rejects.toMatchObject({ failure: 'overloaded' });
    await until(() => decodingProcesses().length === 0);
    processes.deadlineMs = 15_000;
    expect(await processes.run([photo], TASK)).toHaveProperty('image.width', 1278);
  });

  it('are killed when their start exceeds the deadline, and pictures are refused', async () => {
    processes = new ImageProcesses(settings);
    processes.deadlineMs = 1;
    await processes.start();
    await until(() => decodingProcesses().length === 0);
    await expect(processes.run([photo], TASK)).rejects.toMatchObject({ failure: 'overloaded' });
    await until(() => decodingProcesses().length === 0);
    processes.deadlineMs = 15_000;
    expect(await processes.run([photo], TASK)).toHaveProperty('image.width', 1278);
  });

  it('that crash at start refuse pictures, and stop the start of the service', async () => {
    processes = new ImageProcesses(settings);
    const answer = processes.run([photo], TASK);
    await until(() => decodingProcesses().length === 1);
    for (const pid of decodingProcesses()) process.kill(pid, 'SIGKILL');
    await expect(answer).rejects.toMatchObject({ failure: 'overloaded' });
    const started = processes.start();
    await until(() => decodingProcesses().length === 2);
    for (const pid of decodingProcesses()) process.kill(pid, 'SIGKILL');
    await expect(started).rejects.toThrow('A decoding process does not start.');
  });

  it('end when a picture takes more memory than estimated', async () => {
    await start();
    const before = decodingProcesses();
    const interlaced = await sharp({
      create: { width: 7000, height: 5000, channels: 4, background: { r: 1, g: 2, b: 3, alpha: 0.5 } },
    })
      .png({ progressive: true })
      .toBuffer();
    expect(
      await processes.run([interlaced], {
        format: 'png',
        memoryBytes: 1,
        keepBytes: false,
        withThumbnail: false,
      }),
    ).toMatchObject({
      refusal: 'The image takes too much memory to read. Please send it as JPEG.',
    });
    await until(
      () => decodingProcesses().every((pid) => !before.includes(pid)) || decodingProcesses().length === 1,
    );
    expect(await processes.run([photo], TASK)).toHaveProperty('image.width', 1278);
  });

  it('ignore SIGTERM and SIGINT, and end when the service is killed', async () => {
    await start();
    const before = decodingProcesses();
    for (const pid of before) {
      process.kill(pid, 'SIGTERM');
      process.kill(pid, 'SIGINT');
    }
    expect(await processes.run([photo], TASK)).toHaveProperty('image.width', 1278);
    expect(decodingProcesses()).toEqual(before);
    expect(await lastWords(true)).toBe('');
  });

  it('start no more when the service stops', async () => {
    await start();
    await processes.onApplicationShutdown();
    await expect(processes.run([photo], TASK)).rejects.toMatchObject({ failure: 'overloaded' });
    expect(decodingProcesses()).toEqual([]);
  });

  it('end when the service is killed during their start', async () => {
    await start();
    expect(await lastWords(false)).toBe('');
  });
});
