import type { Logger } from 'pino';
import { outsideTraces } from './spans.js';

/** How many lines of one kind are written per period. */
export const LINES_PER_PERIOD = 20;

const PERIOD_MS = 10_000;

/** Maximum number of kinds per period. All further kinds count as one kind. */
const MAX_KINDS = 1000;

const OTHERS = { kind: 'others' };

type Kind = { readonly fields: object; lines: number };

/**
 * Limits repeated log lines: at most {@link LINES_PER_PERIOD} lines of one kind in ten seconds, then one line with the
 * number of omitted lines (`suppressed`). Memory is limited, regardless of the number of kinds.
 */
export class FloodSummary {
  private readonly kinds = new Map<string, Kind>();
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly logger: Logger) {}

  /**
   * @param fields lines with the same fields are of one kind
   * @returns whether to write the line; otherwise the line is only counted
   */
  admits(fields: Readonly<Record<string, string | number | undefined>>): boolean {
    const kind = this.kindOf(fields);
    kind.lines += 1;
    return kind.lines <= LINES_PER_PERIOD;
  }

  /** Logs the number of omitted lines, and starts a new period. */
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
    this.timer ??= setTimeout(() => outsideTraces(() => this.flush()), PERIOD_MS).unref();
    const key = Object.values(fields).join(' ');
    const known = this.kinds.get(key);
    if (known) return known;
    if (this.kinds.size >= MAX_KINDS && fields !== OTHERS) return this.kindOf(OTHERS);
    const kind = { fields, lines: 0 };
    this.kinds.set(key, kind);
    return kind;
  }
}
