import { afterEach, beforeEach, expect, it, jest } from '@jest/globals';
import { FloodSummary, LINES_PER_PERIOD } from './flood-summary.js';
import { createLogger } from './logger.js';

let lines: string[];
let floods: FloodSummary;

beforeEach(() => {
  jest.useFakeTimers();
  lines = [];
  floods = new FloodSummary(
    createLogger('info', { destination: { write: (line) => void lines.push(line) } }),
  );
});

afterEach(() => {
  jest.useRealTimers();
});

const summaries = (): unknown[] => lines.map((line) => JSON.parse(line) as unknown);

const summary = (fields: object): object => ({
  level: 'warn',
  time: expect.any(String),
  ...fields,
  msg: 'more of the same was left out',
});

function send(count: number, fields: Parameters<FloodSummary['admits']>[0]): number {
  return Array.from({ length: count }, () => floods.admits(fields)).filter(Boolean).length;
}

it('the flood summary passes the first lines of each kind, and counts the rest', () => {
  const one = { status: 404, route: 'none', network: '203.0.113.7' };
  const other = { ...one, network: '203.0.113.8' };
  expect([send(1254, one), send(3, other)]).toEqual([LINES_PER_PERIOD, 3]);
  expect(lines).toEqual([]);
  jest.advanceTimersByTime(10_000);
  expect(summaries()).toEqual([summary({ ...one, suppressed: 1234 })]);
  expect([send(1, one), send(30, other)]).toEqual([1, LINES_PER_PERIOD]);
  jest.advanceTimersByTime(10_000);
  expect(summaries().slice(1)).toEqual([summary({ ...other, suppressed: 10 })]);
});

it('the flood summary has a limited number of kinds', () => {
  let admitted = 0;
  for (let network = 0; network < 50_000; network += 1) admitted += send(1, { status: 401, network });
  expect(admitted).toBe(1000 + LINES_PER_PERIOD);
  floods.flush();
  expect(summaries()).toEqual([summary({ kind: 'others', suppressed: 49_000 - LINES_PER_PERIOD })]);
});
