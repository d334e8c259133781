import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { ImageProcesses } from '../../src/pictures/image-processes.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { decodingProcesses } from '../support/decoding-processes.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { Client, form } from '../support/raw-clients.js';
import { DOCTOR, PATIENT, TestApp } from '../support/test-app.js';

const onLinux = process.platform === 'linux' ? describe : describe.skip;

onLinux('the decode queue, while one of two processes hangs on a picture of the patient', () => {
  let test: TestApp;
  let stopped: number[] = [];
  let held: Promise<Response>;

  beforeAll(async () => {
    test = await TestApp.start({ DECODE_PROCESSES: '2', UPLOAD_WAIT_MS: '1500' });
    test.app.get(ImageProcesses).deadlineMs = 600_000;
    // The first picture starts only one process.
    expect((await upload(PATIENT)).status).toBe(200);
    stopped = decodingProcesses();
    expect(stopped).toHaveLength(1);
    for (const pid of stopped) process.kill(pid, 'SIGSTOP');
    const run = jest.spyOn(test.app.get(ImageProcesses), 'run');
    held = upload(PATIENT);
    await eventually(() => run.mock.calls.length === 1);
  });

  afterEach(() => {
    expect(decodingProcesses()).toEqual(expect.arrayContaining(stopped));
  });

  afterAll(async () => {
    for (const pid of stopped) process.kill(pid, 'SIGCONT');
    expect((await held).status).toBe(200);
    await test.stop();
  });

  const upload = async (as: number): Promise<Response> => test.upload(await picture('png'), { as });

  it('does not delay the picture of another user', async () => {
    const other = await upload(DOCTOR);
    expect(other.status).toBe(200);
  });

  it('answers 503 OVERLOADED to the same user after UPLOAD_WAIT_MS', async () => {
    const next = await upload(PATIENT);
    expect(next.status).toBe(503);
    expect(Number(next.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(((await next.json()) as ErrorBodyDto).error_code).toBe('OVERLOADED');
  });

  it('drops the picture of a client that disconnected, and stores nothing', async () => {
    const body = form(await picture('png'));
    const gone = new Client(test);
    await gone.send(gone.head({ as: PATIENT, headers: [`Content-Length: ${body.length}`] }));
    await gone.send(body);
    const { length } = test.logLines;
    gone.socket.destroy();
    await eventually(() => test.logLines.slice(length).some((line) => line.includes('"status":499')));
    // The dropped picture would be decoded now.
    for (const pid of stopped) process.kill(pid, 'SIGCONT');
    expect((await held).status).toBe(200);
    expect((await upload(PATIENT)).status).toBe(200);
    expect(
      await test.database.query('SELECT id FROM chat_images WHERE original_name = $1', ['a.jpg']),
    ).toEqual([]);
  });
});
