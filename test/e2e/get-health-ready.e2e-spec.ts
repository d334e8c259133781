import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { setTimeout } from 'node:timers/promises';
import { RequestDatabase } from '../../src/database/request-database.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { eventually } from '../support/eventually.js';
import { serverOf } from '../support/raw-clients.js';
import { refusal, S3Answers } from '../support/s3-answers.js';
import { TestApp } from '../support/test-app.js';

type Line = { readonly msg: string; readonly backend?: string };

const LIST = '<ListBucketResult><Name>pictures</Name><KeyCount>0</KeyCount></ListBucketResult>';

let answers: S3Answers;
let proxy: CuttingProxy;
let test: TestApp;

beforeAll(async () => {
  answers = await S3Answers.start();
  test = await TestApp.start({ ...answers.environment, STORAGE_REQUEST_TIMEOUT_MS: '1900' });
  const url = new URL(test.settings.database.url);
  proxy = await CuttingProxy.start({ host: url.hostname, port: Number(url.port) });
  url.host = proxy.address;
  await test.restart({ DATABASE_URL: url.href });
});

afterEach(() => {
  jest.restoreAllMocks();
  answers.answerWith();
  proxy.pass();
});

afterAll(async () => {
  await test.stop();
  await proxy.stop();
  answers.stop();
});

const ready = async (): Promise<number> => (await test.fetch('/api/health/ready')).status;

/** Asks until the response has this status. */
async function becomes(status: number): Promise<void> {
  await eventually(async () => (await ready()) === status, `readiness to become ${status}`);
}

const linesOf = (backend: string): Line[] =>
  test.logLines.map((line) => JSON.parse(line) as Line).filter((line) => line.backend === backend);

/** Waits until the cached response has ended, and clears what was recorded. */
async function afresh(): Promise<void> {
  await becomes(200);
  await setTimeout(1000);
  test.logLines.length = 0;
  answers.requests.length = 0;
}

it('GET /api/health/ready asks each backend once for 200 concurrent requests', async () => {
  await afresh();
  const pings = jest.spyOn(test.app.get(RequestDatabase), 'ping');
  let arrived = 0;
  serverOf(test).on('request', () => (arrived += 1));
  answers.answerWith(
    (_request, response) =>
      void eventually(() => arrived === 200, 'all requests').then(() => response.end(LIST)),
  );
  const statuses = await Promise.all(Array.from({ length: 200 }, ready));
  expect(new Set(statuses)).toEqual(new Set([200]));
  expect([answers.requests.length, pings.mock.calls.length]).toEqual([1, 1]);
});

describe('GET /api/health/ready with a storage that refuses requests', () => {
  it('logs the storage error once, and again when the error changes', async () => {
    await afresh();
    answers.answerWith(refusal(403, 'SignatureDoesNotMatch'));
    await becomes(503);
    while (answers.requests.length < 2) expect(await ready()).toBe(503);
    expect(linesOf('storage')).toEqual([
      {
        level: 'error',
        time: expect.any(String),
        backend: 'storage',
        storage: 'wrong-secret',
        advice: expect.stringContaining('DO_SPACES_SECRET'),
        storageStatus: 403,
        storageError: 'SignatureDoesNotMatch',
        causes: expect.any(Array),
        msg: 'not ready',
      },
    ]);
    // The failed readiness requests get no log lines of their own.
    expect(test.logLines.filter((line) => line.includes('"failure"'))).toEqual([]);
    answers.answerWith(refusal(403, 'InvalidAccessKeyId'));
    while (linesOf('storage').length < 2) expect(await ready()).toBe(503);
    answers.answerWith();
    await becomes(200);
    expect(linesOf('storage').map(({ msg }) => msg)).toEqual(['not ready', 'not ready', 'ready again']);
    expect(test.logLines.join('\n')).not.toMatch(/the-access-key|the-secret/);
  });
});

describe('GET /api/health/ready with a database that hangs', () => {
  it('answers 503 after its timeout, and asks the database only once', async () => {
    await afresh();
    const pings = jest.spyOn(test.app.get(RequestDatabase), 'ping');
    proxy.fail({ how: 'hold' });
    expect([await ready(), await ready()]).toEqual([503, 503]);
    expect(pings).toHaveBeenCalledTimes(1);
    expect(linesOf('database')).toEqual([
      { level: 'error', time: expect.any(String), backend: 'database', silentMs: 2000, msg: 'not ready' },
    ]);
    proxy.pass();
    await becomes(200);
  });
});
