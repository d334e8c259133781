import type { RowOutcome } from '../import/url-rewriter.js';

/** Examples of each outcome. */
const EXAMPLES = 3;

/** The outcomes of rows: their numbers, and the first pictures of each. */
export class RowOutcomes {
  private readonly counts = new Map<RowOutcome, number>();
  private readonly examples = new Map<RowOutcome, string[]>();

  add(outcome: RowOutcome, filePath: string | undefined): void {
    this.counts.set(outcome, this.count(outcome) + 1);
    const examples = this.examples.get(outcome) ?? [];
    if (filePath === undefined || examples.length === EXAMPLES || examples.includes(filePath)) return;
    this.examples.set(outcome, [...examples, filePath]);
  }

  count(outcome: RowOutcome): number {
    return this.counts.get(outcome) ?? 0;
  }

  print(): void {
    if (this.counts.size === 0) {
      process.stdout.write('No address was found.\n');
      return;
    }
    const sorted = [...this.counts].sort(([a], [b]) => (a < b ? -1 : 1));
    console.table(Object.fromEntries(sorted.map(([outcome, rows]) => [outcome, { rows }])));
    for (const [outcome] of sorted) {
      const examples = this.examples.get(outcome);
      if (examples) process.stdout.write(`${outcome}, for example:\n${indented(examples)}\n`);
    }
  }
}

/** Lines of a list, for an operator. */
export function indented(lines: readonly string[]): string {
  return lines.map((line) => `  ${line}`).join('\n');
}
