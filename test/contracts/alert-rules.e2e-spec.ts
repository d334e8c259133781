import { describe, expect, it } from '@jest/globals';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { hasPromtool, promtool } from '../support/promtool.js';

type Rule = {
  readonly alert: string;
  readonly expr: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
};

const RULES = 'ops/alerts.yml';
const TESTS = 'ops/alerts.test.yml';

/** The pages that are written for the alerts. */
const RUNBOOKS = [
  'database',
  'storage',
  'redis',
  'sweeper-behind',
  'pictures-without-object',
  'clock',
  'overload',
  'opens-without-token',
].map((page) => `docs/runbooks/${page}.md`);

const { groups } = parse(readFileSync(RULES, 'utf8')) as { groups: { rules: Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);

const describeWithPromtool = hasPromtool() ? describe : describe.skip;

describe('the alert rules', () => {
  it.each(rules)(
    '$alert says what it means, what to do, and where its runbook is',
    ({ labels, annotations }) => {
      expect(labels.severity).toMatch(/^(critical|warning)$/);
      expect(annotations.summary).toMatch(/^[A-Z].{20,}\.$/);
      expect(annotations.action).toMatch(/^[A-Z].{20,}\.$/);
      expect(RUNBOOKS).toContain(annotations.runbook_url);
    },
  );

  it('each have a test in which they fire', () => {
    const { tests } = parse(readFileSync(TESTS, 'utf8')) as {
      tests: { promql_expr_test?: { exp_samples: { labels: string }[] }[] }[];
    };
    const fired = tests
      .flatMap(({ promql_expr_test: queries = [] }) => queries)
      .flatMap((query) => query.exp_samples)
      .map(({ labels }) => /alertname="(\w+)"/.exec(labels)?.[1]);
    expect([...new Set(fired)].sort()).toEqual(rules.map(({ alert }) => alert).sort());
  });
});

describeWithPromtool('promtool', () => {
  it('accepts the alert rules', () => {
    expect(promtool(['check', 'rules', RULES])).toMatchObject({ code: 0 });
  });

  it('can read each query of the dashboard', () => {
    const { panels } = JSON.parse(readFileSync('ops/dashboard.json', 'utf8')) as {
      panels: { targets?: { expr: string }[] }[];
    };
    const queries = panels
      .flatMap(({ targets = [] }) => targets)
      .map(({ expr }) => expr.replaceAll('$__rate_interval', '5m').replaceAll('$instance', '.*'));
    const folder = mkdtempSync(join(tmpdir(), 'chat-image-store-dashboard-'));
    try {
      const file = join(folder, 'queries.yml');
      const recorded = queries.map((expr, index) => ({ record: `query_${index}`, expr }));
      // JSON is YAML.
      writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules: recorded }] }));
      const { code, output } = promtool(['check', 'rules', file]);
      expect([code, output]).toEqual([0, expect.stringContaining(`${queries.length} rules found`)]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('sees each alert fire where it should, and only there', () => {
    expect(promtool(['test', 'rules', TESTS])).toMatchObject({ code: 0 });
  });
});
