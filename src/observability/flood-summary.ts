import type { Logger } from 'pino';

/** How many lines of one kind are written in a period. The first of them always are. */
export const LINES_PER_PERIOD = 20;

const PERIOD_MS = 10_000;

/** How many kinds are told apart in a period; what comes after them is one kind. */
const MAX_KINDS = 1000;

const OTHERS = { kind: 'others' };

type Kind = { readonly fields: object; lines: number };

/**
 * Keeps floods of the same line out of the log: of each kind so many lines are written in ten seconds, and then one that
 * says how many more there were (`suppressed`). However many kinds there are, it needs little memory.
 */
export class FloodSummary {
  private readonly kinds = new Map<string, Kind>();
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly logger: Logger) {}

  /**
   * @param fields what makes the kind: lines that have these in common are alike
   * @returns whether the line is to be written; otherwise it is counted
   */
  admits(fields: Readonly<Record<string, string | number | undefined>>): boolean {
    const kind = this.kindOf(fields);
    kind.lines += 1;
    return kind.lines <= LINES_PER_PERIOD;
  }

  /** Writes how many lines were left out, and begins a new period. */
  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    for (const { fields, lines } of this.kinds.values()) {
      const suppressed = lines - LINES_PER_PERIOD;
      if (suppressed > 0) this.logger.warn({ ...fields, suppressed }, 'more of the same was left out');
    }
    this.kinds.clear();
  }

  private kindOf(fields: Readonly<Record<string, string | number | undefined>>): Kind {
    this.timer ??= setTimeout(() => this.flush(), PERIOD_MS).unref();
    const key = Object.values(fields).join(' ');
    const known = this.kinds.get(key);
    if (known) return known;
    if (this.kinds.size >= MAX_KINDS && fields !== OTHERS) return this.kindOf(OTHERS);
    const kind = { fields, lines: 0 };
    this.kinds.set(key, kind);
    return kind;
  }
}
