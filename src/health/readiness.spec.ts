import { afterEach, beforeEach, expect, it, jest } from '@jest/globals';
import { HealthIndicatorService } from '@nestjs/terminus';
import type { StorageProvider } from '../storage/storage-provider.js';
import { DatabaseUnavailableError } from '../database/database-failure.js';
import type { RequestDatabase } from '../database/request-database.js';
import { createLogger } from '../observability/logger.js';
import { Readiness } from './readiness.js';

const database = { ping: jest.fn<() => Promise<void>>() };
const storage = { ping: jest.fn<() => Promise<void>>() };
let lines: string[];
let readiness: Readiness;

beforeEach(() => {
  jest.useFakeTimers({ now: 0, doNotFake: ['nextTick', 'setImmediate'] });
  lines = [];
  for (const { ping } of [database, storage]) ping.mockReset().mockResolvedValue(undefined);
  readiness = new Readiness(
    new HealthIndicatorService(),
    database as unknown as RequestDatabase,
    storage as unknown as StorageProvider,
    createLogger('info', { destination: { write: (line) => void lines.push(line) } }),
  );
});

afterEach(() => {
  jest.useRealTimers();
});

const isReady = (): Promise<boolean> =>
  readiness.check().then(
    () => true,
    () => false,
  );

it('readiness is cached for a second', async () => {
  for (const [at, asked] of [
    [0, 1],
    [999, 1],
    [1000, 2],
    [1999, 2],
    [2000, 3],
  ] as const) {
    jest.setSystemTime(at);
    jest.advanceTimersByTime(at - performance.now());
    expect(await isReady()).toBe(true);
    expect([at, database.ping.mock.calls.length, storage.ping.mock.calls.length]).toEqual([at, asked, asked]);
  }
});

it('readiness logs a backend that is down at once, and then every minute', async () => {
  database.ping.mockRejectedValue(
    new DatabaseUnavailableError(Object.assign(new Error('to 10.0.0.1'), { code: 'ECONNREFUSED' })),
  );
  for (let second = 0; second <= 125; second += 1) {
    expect(await isReady()).toBe(false);
    jest.advanceTimersByTime(1000);
  }
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(
    [0, 60, 120].map(() => ({
      level: 'error',
      time: expect.any(String),
      backend: 'database',
      causes: [{ name: 'DatabaseUnavailableError' }, { name: 'Error', code: 'ECONNREFUSED' }],
      msg: 'not ready',
    })),
  );
});
