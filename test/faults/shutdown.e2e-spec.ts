import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Agent, type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { setTimeout } from 'node:timers/promises';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { isPortOpen } from '../support/port-open.js';
import { beginUpload, Client } from '../support/raw-clients.js';
import { RunningProcess } from '../support/run-process.js';
import { S3Answers } from '../support/s3-answers.js';
import { DOCTOR, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

/** The delay is long enough for a test on a busy machine. */
const DELAY_MS = 3000;

type Answer = { readonly status: number | undefined; readonly connection: string | undefined };

describe('SIGTERM', () => {
  /** The tests use its database and storage, and its earlier requests. */
  let test: TestApp;
  let proxy: CuttingProxy;
  let child: RunningProcess;
  let port: number;
  const agents: Agent[] = [];

  beforeAll(async () => {
    test = await TestApp.start({ SWEEP_INTERVAL_SECONDS: '0' });
    proxy = await CuttingProxy.start({ host: '127.0.0.1', port: test.postgres.port });
  });

  afterEach(async () => {
    child.signal('SIGKILL');
    await child.exit;
    proxy.pass();
    for (const agent of agents.splice(0)) agent.destroy();
  });

  afterAll(async () => {
    await proxy.stop();
    await test.stop();
  });

  async function start(environment: NodeJS.ProcessEnv = {}): Promise<void> {
    const { storage, database } = test.settings;
    const url = new URL(database.url);
    url.host = proxy.address;
    port = await freePort();
    child = new RunningProcess(['main.js'], {
      env: {
        ...TEST_ENVIRONMENT,
        PORT: String(port),
        APP_URL: `http://127.0.0.1:${port}`,
        DATABASE_URL: url.href,
        LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : undefined,
        SWEEP_INTERVAL_SECONDS: '0',
        ...environment,
      },
      cwd: tmpdir(),
    });
    await child.printed(/"listening"/);
  }

  /** A client with a single keep-alive connection. */
  function client(): (path: string) => Promise<Answer> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    agents.push(agent);
    return (path) =>
      new Promise((resolve, reject) => {
        const headers = { authorization: `Bearer ${test.token(DOCTOR)}` };
        const sent = request(
          { agent, port, host: '127.0.0.1', path, headers },
          (response: IncomingMessage) => {
            response
              .resume()
              .on('end', () =>
                resolve({ status: response.statusCode, connection: response.headers.connection }),
              );
          },
        );
        sent.on('error', reject).end();
      });
  }

  it('makes readiness false at once, while requests are answered with Connection: close', async () => {
    await start({ SHUTDOWN_DELAY_MS: String(DELAY_MS) });
    const before = client();
    expect(await before('/api/health')).toEqual({ status: 200, connection: 'keep-alive' });
    const upload = new Client(test, port);
    const finish = await beginUpload(upload);
    child.signal('SIGTERM');
    await child.printed(/"stopping"/);
    const ready = await fetch(`http://127.0.0.1:${port}/api/health/ready`);
    const { error_code: code } = (await ready.json()) as ErrorBodyDto;
    expect([ready.status, code, ready.headers.get('retry-after')]).toEqual([503, 'OVERLOADED', '5']);
    // Idle and new connections still get responses.
    expect(await before('/api/health')).toEqual({ status: 200, connection: 'close' });
    expect(await client()('/api/health')).toEqual({ status: 200, connection: 'close' });
    await finish();
    const [answer] = await upload.answersUntilClosed();
    expect([answer?.status, answer?.headers.get('connection'), answer?.body]).toEqual([
      200,
      'close',
      expect.stringContaining('"success":true'),
    ]);
    expect(await child.exit).toBe(0);
  });

  it('loses no request of busy clients that obey Connection: close', async () => {
    await start({ SHUTDOWN_DELAY_MS: String(DELAY_MS) });
    const upload = await test.upload(await picture('png'));
    const { data } = (await upload.json()) as UploadedChatImageResponseDto;
    const answers: Answer[] = [];
    const clients = Array.from({ length: 20 }, async () => {
      const ask = client();
      for (let answer: Answer | undefined; answer?.connection !== 'close';) {
        answer = await ask(`/api/chat-images/${data.id}/signed-url`);
        answers.push(answer);
      }
    });
    while (answers.length < 100) await setTimeout(10);
    child.signal('SIGTERM');
    await Promise.all(clients);
    expect(answers.filter(({ status }) => status !== 200)).toEqual([]);
    expect(answers.filter(({ connection }) => connection === 'close')).toHaveLength(20);
    expect(await child.exit).toBe(0);
  });

  it('closes idle connections and the port after SHUTDOWN_DELAY_MS', async () => {
    await start({ SHUTDOWN_DELAY_MS: '200' });
    const upload = new Client(test, port);
    const finish = await beginUpload(upload);
    const idle = new Client(test, port);
    await idle.ask({ method: 'GET', path: '/api/health' });
    child.signal('SIGTERM');
    await eventually(() => idle.ended, 'the end of the idle connection');
    expect(idle.error).toBeUndefined();
    while (await isPortOpen(port));
    await finish();
    expect((await upload.answersUntilClosed()).map(({ status }) => status)).toEqual([200]);
    expect(await child.exit).toBe(0);
  });

  it('cuts off a stalled upload within SHUTDOWN_TIMEOUT_MS', async () => {
    await start({ SHUTDOWN_TIMEOUT_MS: '2500' });
    const upload = new Client(test, port);
    await beginUpload(upload);
    child.signal('SIGTERM');
    expect(await child.exit).toBe(0);
    expect((await upload.answersUntilClosed()).map(({ status }) => status)).not.toContain(200);
  });

  describe('during upkeep', () => {
    let s3: S3Answers;

    beforeAll(async () => {
      s3 = await S3Answers.start();
    });

    afterEach(() => test.database.query('TRUNCATE chat_image_tombstones, chat_image_upkeep_tasks'));

    afterAll(() => s3.stop());

    const environment = (): NodeJS.ProcessEnv => ({
      ...s3.environment,
      SWEEP_INTERVAL_SECONDS: '1',
      STORAGE_REQUEST_TIMEOUT_MS: '600000',
    });

    it('does not wait for a hanging deletion, and keeps the tombstones', async () => {
      const leave = `INSERT INTO chat_image_tombstones (object_key, settled_at)
        SELECT 'chat_images/appointment_1/' || n || '.png', now() FROM generate_series(1, 20) n`;
      s3.answerWith((asked, response) => {
        // The storage does not answer the first deletion.
        if (asked.method !== 'DELETE') response.writeHead(200).end('<ListBucketResult></ListBucketResult>');
      });
      await start(environment());
      await test.database.query(leave);
      while (!s3.requests.some(({ method }) => method === 'DELETE')) await setTimeout(10);
      child.signal('SIGTERM');
      expect(await child.exit).toBe(0);
      expect(await test.database.query('SELECT FROM chat_image_tombstones')).toHaveLength(20);
    });

    it('stops the comparison of storage and database between two pages', async () => {
      let pages = 0;
      s3.answerWith((asked, response) => {
        const list = new URL(asked.url ?? '', 'http://x').searchParams;
        if (list.get('list-type') !== '2' || list.get('max-keys') === '1') {
          response.writeHead(200).end('<ListBucketResult></ListBucketResult>');
          return;
        }
        // This bucket has endless pages.
        pages += 1;
        const objects = Array.from({ length: 1000 }, (_, index) => {
          const key = `chat_images/appointment_1/${String(pages * 1000 + index).padStart(10, '0')}.png`;
          return `<Contents><Key>${key}</Key><Size>1</Size><LastModified>2025-11-05T21:50:01.000Z</LastModified></Contents>`;
        });
        response.writeHead(200, { 'content-type': 'application/xml' });
        response.end(
          `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>${objects.join('')}</ListBucketResult>`,
        );
      });
      await start(environment());
      while (pages < 3) await setTimeout(10);
      child.signal('SIGTERM');
      await child.printed(/"AbortError".*"upkeep: tries again later"/);
      expect(await child.exit).toBe(0);
    });
  });

  it('exits with 1 after SHUTDOWN_TIMEOUT_MS when the database hangs', async () => {
    await start({
      SHUTDOWN_DELAY_MS: '100',
      SHUTDOWN_TIMEOUT_MS: '1000',
      DATABASE_STATEMENT_TIMEOUT_MS: '600000',
    });
    proxy.fail({ how: 'hold', at: 'decide-images' });
    const cut = client()('/api/chat-images/1/signed-url').then(String, String);
    while (proxy.hits === 0) await setTimeout(10);
    child.signal('SIGTERM');
    expect(await child.exit).toBe(1);
    expect(await cut).toContain('socket hang up');
    expect(child.output).toContain('not stopped within SHUTDOWN_TIMEOUT_MS');
  });

  it('or SIGINT ends the process at once at a second SIGINT', async () => {
    await start({ SHUTDOWN_DELAY_MS: '100000' });
    child.signal('SIGINT');
    await child.printed(/"stopping"/);
    let code: number | null | undefined;
    void child.exit.then((exitCode) => (code = exitCode));
    while (code === undefined) {
      child.signal('SIGINT');
      await setTimeout(50);
    }
    expect(code).toBe(130);
  });
});
