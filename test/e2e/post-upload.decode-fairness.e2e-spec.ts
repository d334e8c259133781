import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { request } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import { ImageProcesses } from '../../src/pictures/image-processes.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { decodingProcesses } from '../decoding-processes.js';
import { picture } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, PATIENT, TestApp } from '../support/test-app.js';

const onLinux = process.platform === 'linux' ? describe : describe.skip;

onLinux(
  'the turns of decoding, of two processes and while one stands still over a picture of the patient',
  () => {
    let test: TestApp;
    let stopped: number[] = [];
    let held: Promise<Response>;

    beforeAll(async () => {
      test = await TestApp.start({ DECODE_PROCESSES: '2', UPLOAD_WAIT_MS: '1500' });
      test.app.get(ImageProcesses).deadlineMs = 600_000;
      // The first picture starts the first process, and no other.
      expect((await upload(PATIENT)).status).toBe(200);
      stopped = decodingProcesses();
      expect(stopped).toHaveLength(1);
      for (const pid of stopped) process.kill(pid, 'SIGSTOP');
      const run = jest.spyOn(test.app.get(ImageProcesses), 'run');
      held = upload(PATIENT);
      await until(() => run.mock.calls.length === 1);
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

    async function until(condition: () => boolean): Promise<void> {
      while (!condition()) await setTimeout(5);
    }

    it("another user's picture does not wait for it", async () => {
      const other = await upload(DOCTOR);
      expect(other.status).toBe(200);
    });

    it('the same user waits, at most for UPLOAD_WAIT_MS, and is told when to come back', async () => {
      const next = await upload(PATIENT);
      expect(next.status).toBe(503);
      expect(Number(next.headers.get('retry-after'))).toBeGreaterThan(0);
      expect(((await next.json()) as ErrorBodyDto).error_code).toBe('OVERLOADED');
    });

    it('whose client has gone leaves the queue: nothing is stored for it', async () => {
      const bytes = await picture('png');
      const head = 'Content-Disposition: form-data; name=';
      const body = Buffer.concat([
        Buffer.from(`--b\r\n${head}"appointment_id"\r\n\r\n${APPOINTMENT}\r\n`),
        Buffer.from(`--b\r\n${head}"file"; filename="a.png"\r\n\r\n`),
        bytes,
        Buffer.from('\r\n--b--\r\n'),
      ]);
      const gone = request(`${test.url}/api/upload/chat-image`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${test.token(PATIENT)}`,
          'content-type': 'multipart/form-data; boundary=b',
          'content-length': body.length,
        },
      });
      gone.on('error', () => undefined);
      await new Promise<void>((resolve) => gone.end(body, resolve));
      const { length } = test.logLines;
      gone.destroy();
      await until(() => test.logLines.slice(length).some((line) => line.includes('"status":499')));
      // Its turn would come now.
      for (const pid of stopped) process.kill(pid, 'SIGCONT');
      expect((await held).status).toBe(200);
      expect((await upload(PATIENT)).status).toBe(200);
      expect(
        await test.database.query('SELECT id FROM chat_images WHERE original_name = $1', ['a.png']),
      ).toEqual([]);
    });
  },
);
