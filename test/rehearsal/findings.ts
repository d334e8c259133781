/** What the rehearsal is about: one list of findings for each. */
export const THEMES = [
  'clients',
  'private',
  'equal',
  'report',
  'untouched',
  'books',
  'status',
  'commands',
] as const;

export type Theme = (typeof THEMES)[number];

/** The most findings of one theme: the first ones tell enough. */
const MAX_FINDINGS = 25;

/** Counts of what has happened, and a sentence for each thing that should not have. */
export class Findings {
  readonly counts = new Map<string, number>();
  private readonly texts = new Map<Theme, string[]>(THEMES.map((theme) => [theme, []]));

  add(theme: Theme, text: string): void {
    const texts = this.texts.get(theme);
    if (texts && texts.length < MAX_FINDINGS) texts.push(text);
  }

  count(what: string, times = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + times);
  }

  /** Adds a finding where two values differ. */
  same(theme: Theme, what: string, actual: unknown, expected: unknown): void {
    const [is, should] = [JSON.stringify(actual), JSON.stringify(expected)];
    if (is !== should) this.add(theme, `${what}: ${is}, not ${should}.`);
  }

  of(theme: Theme): readonly string[] {
    return this.texts.get(theme) ?? [];
  }
}
