import { beforeAll, describe, expect, it } from '@jest/globals';
import { possibleForms } from '../rehearsal/places.js';
import { rehearse, type RehearsalReport } from '../rehearsal/rehearsal.js';

/** As many as it takes for each kind of odd file. `npm run rehearsal` plays the long form, with 2,000 files. */
const FILES = Number(process.env.REHEARSAL_FILES ?? '120');

const LIMIT_MS = 30 * 60_000;

describe.each(possibleForms())(`a migration of ${FILES} files: %s`, (form) => {
  let report: RehearsalReport;
  const steps: string[] = [];

  beforeAll(async () => {
    try {
      report = await rehearse({ form, files: FILES, onStep: (line) => void steps.push(line) });
    } finally {
      if (process.env.REHEARSAL_FILES !== undefined) process.stderr.write(`${form}\n${steps.join('\n')}\n`);
    }
  }, LIMIT_MS);

  it('goes on while clients of both kinds read and upload in every phase', () => {
    const { counts } = report;
    for (const phase of [1, 2, 3]) {
      expect(counts[`old client shown in phase ${phase}`]).toBeGreaterThan(0);
      expect(counts[`new client shown in phase ${phase}`]).toBeGreaterThan(0);
    }
    for (const phase of [1, 2]) {
      expect(counts[`old client sent to the old address in phase ${phase}`]).toBeGreaterThan(0);
      expect(counts[`new client sent to the old address in phase ${phase}`]).toBeGreaterThan(0);
    }
    expect(counts['old client 401 in phase 4']).toBeGreaterThan(0);
    expect(counts['new client shown in phase 4']).toBeGreaterThan(0);
    for (const phase of [1, 2, 3, 4]) {
      expect(counts[`upload 200 in phase ${phase}`]).toBeGreaterThan(0);
      expect(counts[`stranger 403 in phase ${phase}`]).toBeGreaterThan(0);
    }
  });

  it('is cut three times on the way, once with a picture half done, and runs twice at once', () => {
    const { counts } = report;
    expect(counts['runs killed']).toBeGreaterThanOrEqual(3);
    expect(counts['pictures half done']).toBeGreaterThan(0);
    // In the short form, the first run may claim all files before the second begins.
    if (FILES >= 1000) expect(counts['two runs have stored pictures at once']).toBe(1);
    expect(report.findings('commands')).toEqual([]);
  });

  it('refuses no client a picture that its phase owed it, and shows none to a stranger', () => {
    expect(report.findings('clients')).toEqual([]);
  });

  it('makes every good picture private', () => {
    expect(report.counts['pictures of the installation at the end']).toBeGreaterThan(FILES * 0.9);
    expect(report.findings('private')).toEqual([]);
  });

  it('keeps every good picture equal by pixel or byte', () => {
    expect(report.findings('equal')).toEqual([]);
  });

  it('reports every odd file with its reason', () => {
    expect(report.findings('report')).toEqual([]);
    expect(report.counts['files that changed during the import']).toBeGreaterThan(0);
  });

  it('touches nothing that it does not know', () => {
    expect(report.counts['files and folders that were not touched']).toBeGreaterThan(10);
    expect(report.findings('untouched')).toEqual([]);
  });

  it('leaves one row for each picture, one object for each row, and a row for every URL', () => {
    expect(report.findings('books')).toEqual([]);
  });

  it('is told by migrate:status as it is at every stage', () => {
    expect(report.findings('status')).toEqual([]);
  });
});
