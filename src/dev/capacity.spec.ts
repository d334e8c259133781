import { describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { ASSUMPTIONS, type Assumptions, type Capacity, capacityOf, type Measured } from './capacity-model.js';
import { withTables } from './capacity-tables.js';

const measured = JSON.parse(readFileSync('docs/bench/capacity.json', 'utf8')) as Measured;
const document = readFileSync('docs/capacity.md', 'utf8');

const assumed = Object.fromEntries(
  Object.entries(ASSUMPTIONS).map(([name, { value }]) => [name, value]),
) as Omit<Assumptions, 'imagesPerMonth'>;

const HOURS_OF_MONTH = (365.25 * 24) / 12;

/** Costs that are easy to reckon with. */
const URL_COST = {
  serviceCpuMs: 1,
  postgresCpuMs: 0.5,
  rows: { chat_image_access: 1 },
  walBytes: 200,
  tableBytes: 100,
  redisCommands: 1,
};
const ROUND: Measured = {
  command: '',
  node: '',
  postgres: '',
  upload: {
    timed: [
      { bytes: 200_000, serviceCpuMs: 40, postgresCpuMs: 2, thumbnailBytes: 20_000 },
      { bytes: 1_200_000, serviceCpuMs: 140, postgresCpuMs: 2, thumbnailBytes: 40_000 },
    ],
    rows: { chat_images: 1, chat_image_access: 1 },
    rowChanges: 3,
    walBytes: 2000,
    tableBytes: 1000,
    puts: 2,
    otherRequests: 0,
    redisCommands: 1,
  },
  signedUrl: URL_COST,
  signedUrlInBatch: { ...URL_COST, serviceCpuMs: 0.2, redisCommands: 0.1, urlsInBatch: 20 },
  connectionsOfInstance: 5,
};

/** A thousand uploads an hour, ten thousand signed URLs an hour, each picture with 700 kB. */
const capacity = (given: Partial<Assumptions> = {}): Capacity =>
  capacityOf(
    {
      ...assumed,
      imagesPerMonth: 1000 * HOURS_OF_MONTH,
      opensPerImage: 10,
      batchShare: 0,
      pictureBytes: 700_000,
      peakFactor: 1,
      walFactor: 1,
      months: 1,
      ...given,
    },
    ROUND,
  );

describe('the capacity of an installation', () => {
  it('has the rates and the processors of its uploads and signed URLs', () => {
    const { uploads, urls, serviceCores, postgresCores, redisCommandsAtPeak } = capacity();
    expect(uploads * 3600).toBeCloseTo(1000);
    expect(urls * 3600).toBeCloseTo(10_000);
    // An upload of 700 kB lies in the middle between the two that are measured: 90 ms.
    expect(serviceCores * 3600).toBeCloseTo((1000 * 90 + 10_000 * 1) / 1000);
    expect(postgresCores * 3600).toBeCloseTo((1000 * 2 + 10_000 * 0.5) / 1000);
    expect(redisCommandsAtPeak * 3600).toBeCloseTo(11_000);
  });

  it('has the costs of a batch for the URLs in batches', () => {
    expect(capacity({ batchShare: 0.5 }).serviceCores * 3600).toBeCloseTo(
      (1000 * 90 + 5000 * 1 + 5000 * 0.2) / 1000,
    );
  });

  it('has instances for the peak, three at least', () => {
    expect(capacity().instances).toBe(3);
    const busy = capacity({ peakFactor: 300, busyShare: 0.5 });
    expect(busy.instances).toBe(Math.ceil((300 * 100) / 3600 / 0.5));
    expect(busy.connections).toBe(busy.instances * 5);
  });

  it('grows by the rows, the WAL and the objects of each month', () => {
    const { imageRows, accessRows, databaseGbPerMonth, walGbPerMonth, objectsPerMonth, bucketGbPerMonth } =
      capacity();
    expect(imageRows).toBeCloseTo(1000 * HOURS_OF_MONTH);
    expect(accessRows).toBeCloseTo(11_000 * HOURS_OF_MONTH);
    expect(databaseGbPerMonth).toBeCloseTo((HOURS_OF_MONTH * (1000 * 1000 + 10_000 * 100)) / 1e9);
    expect(walGbPerMonth).toBeCloseTo((HOURS_OF_MONTH * (1000 * 2000 + 10_000 * 200)) / 1e9);
    expect(objectsPerMonth).toBeCloseTo(2000 * HOURS_OF_MONTH);
    expect(bucketGbPerMonth).toBeCloseTo((HOURS_OF_MONTH * 1000 * 730_000) / 1e9);
    const year = capacity({ months: 12, walFactor: 2 });
    expect(year.databaseGb).toBeCloseTo(12 * databaseGbPerMonth);
    expect(year.bucketGb).toBeCloseTo(12 * bucketGbPerMonth);
    expect(year.walGbPerMonth).toBeCloseTo(2 * walGbPerMonth);
  });

  it('needs as many buckets as its requests', () => {
    expect(capacity().buckets).toBe(1);
    // 2,000 PUT and 5,000 GET an hour, in the peak a thousand times as many.
    const writes = { bucketWritesPerSecond: 100, bucketRequestsPerSecond: 10_000 };
    expect(capacity({ peakFactor: 1000, ...writes }).buckets).toBe(Math.ceil(2_000_000 / 3600 / 100));
    const all = { bucketWritesPerSecond: 10_000, bucketRequestsPerSecond: 100 };
    expect(capacity({ peakFactor: 1000, ...all }).buckets).toBe(Math.ceil(7_000_000 / 3600 / 100));
  });

  it('has the prices of the lists', () => {
    const none = capacity({ imagesPerMonth: 0 });
    expect([none.spacesDollars, none.awsDollars]).toEqual([5, 0]);
    // 1,000,000 pictures of 700 kB and 30 kB, stored for a month; 5,000,000 downloads of pictures.
    const million = capacity({ imagesPerMonth: 1e6, thumbnailShare: 0 });
    const stored = 730;
    const sent = 3500;
    const inGib = (gb: number): number => (gb * 1e9) / 1024 ** 3;
    expect(million.spacesDollars).toBeCloseTo(5 + 0.02 * (inGib(stored) - 250) + 0.01 * (inGib(sent) - 1024));
    expect(million.awsDollars).toBeCloseTo(
      stored * 0.023 + (sent - 100) * 0.09 + 2000 * 0.005 + 5000 * 0.0004,
    );
  });
});

describe('docs/capacity.md', () => {
  it('has the tables that the command prints', () => {
    expect(cellsOf(document)).toEqual(cellsOf(withTables(document, measured)));
  });

  it('is found old with other costs', () => {
    const signedUrl = { ...measured.signedUrl, tableBytes: 2 * measured.signedUrl.tableBytes };
    expect(cellsOf(withTables(document, { ...measured, signedUrl }))).not.toEqual(cellsOf(document));
  });
});

/** The text, with the cells of its tables instead of their layout. */
function cellsOf(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '' && !/^\|[\s|:-]+\|$/.test(line))
    .map((line) =>
      line
        .split('|')
        .map((cell) => cell.trim())
        .join('|'),
    );
}
