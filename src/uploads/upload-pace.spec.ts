import { afterEach, beforeEach, expect, it, jest } from '@jest/globals';
import type { Request } from 'express';
import { MIN_BYTES_PER_SECOND, watchUploadPace } from './upload-pace.js';

const SLOW_SECONDS = 10;

let socket: { bytesRead: number };
let reading: boolean;
let endWatch: () => void;
const tooSlow = jest.fn();

beforeEach(() => {
  jest.useFakeTimers();
  tooSlow.mockClear();
  socket = { bytesRead: 5000 };
  reading = true;
  endWatch = watchUploadPace({ socket } as Request, {
    slowSeconds: SLOW_SECONDS,
    isReading: () => reading,
    tooSlow,
  });
});

afterEach(() => {
  endWatch();
  jest.useRealTimers();
});

function pass(seconds: number, bytesPerSecond: number): void {
  for (let second = 0; second < seconds; second += 1) {
    socket.bytesRead += bytesPerSecond;
    jest.advanceTimersByTime(1000);
  }
}

it('an upload of exactly the minimum speed may take any time', () => {
  pass(120, MIN_BYTES_PER_SECOND);
  expect(tooSlow).not.toHaveBeenCalled();
});

it('an upload below the minimum speed is ended after the first period', () => {
  pass(SLOW_SECONDS - 1, MIN_BYTES_PER_SECOND - 1);
  expect(tooSlow).not.toHaveBeenCalled();
  pass(1, MIN_BYTES_PER_SECOND - 1);
  expect(tooSlow).toHaveBeenCalled();
});

it('an upload may pause when it is faster in the rest of the period', () => {
  for (let round = 0; round < 5; round += 1) {
    pass(5, 0);
    pass(5, 2 * MIN_BYTES_PER_SECOND);
  }
  expect(tooSlow).not.toHaveBeenCalled();
});

it('an upload gets no credit for its speed in earlier periods', () => {
  pass(10, 1_000_000);
  pass(SLOW_SECONDS - 1, 0);
  expect(tooSlow).not.toHaveBeenCalled();
  pass(1, 0);
  expect(tooSlow).toHaveBeenCalled();
});

it('an upload is not timed while the server does not read', () => {
  pass(SLOW_SECONDS - 1, 0);
  reading = false;
  pass(60, 0);
  expect(tooSlow).not.toHaveBeenCalled();
  reading = true;
  pass(1, 0);
  expect(tooSlow).toHaveBeenCalled();
});
