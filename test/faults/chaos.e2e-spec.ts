import { beforeAll, describe, expect, it } from '@jest/globals';
import { runChaos, type ChaosReport } from '../chaos/chaos.js';
import { FAULT_KINDS } from '../chaos/plan.js';

const SEED = 11;
const MINUTES = 2;

/** The limit covers the run, the last retries, upkeep, and reading every picture. */
const LIMIT_MS = 10 * 60_000;

describe(`${MINUTES} minutes of faults`, () => {
  let report: ChaosReport;
  const lines: string[] = [];

  beforeAll(async () => {
    report = await runChaos({ seed: SEED, minutes: MINUTES, onEvent: (line) => void lines.push(line) });
  }, LIMIT_MS);

  it('include every kind of fault, during uploads and reads', () => {
    expect([...new Set(report.faults.map(({ kind }) => kind))].sort()).toEqual([...FAULT_KINDS].sort());
    expect(Object.keys(report.counts)).toEqual(
      expect.arrayContaining([
        'upload 200',
        'URL 200',
        'URL 302',
        'URLs 200',
        'list 200',
        'outsider 403 FORBIDDEN',
      ]),
    );
    expect(report.counts['audit trails held against every URL']).toBeGreaterThan(0);
    // Without such uploads the faults have hit nothing.
    expect(report.counts['upload without an answer']).toBeGreaterThan(0);
  });

  it('lose or repeat no picture, leave nothing behind, and show nothing to outsiders', () => {
    expect({ findings: report.findings, faults: report.findings.length > 0 ? lines : [] }).toEqual({
      findings: [],
      faults: [],
    });
  });
});
