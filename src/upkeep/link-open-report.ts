import type { DataSource } from 'typeorm';
import type { MigrationPhase } from '../config/settings.js';
import { PHASE_RULES } from '../config/migration-phase.js';

/** Counts of stable addresses opened without a token, by app version, in the last day, week and month. */
export type LinkOpens = {
  readonly appVersion: string;
  /** Whether the request was redirected to the old address, because the picture was not in this service yet. */
  readonly sentOn: boolean;
  readonly day: number;
  readonly week: number;
  readonly month: number;
};

/** @returns sorted by frequency, highest first */
export function countLinkOpens(dataSource: DataSource): Promise<readonly LinkOpens[]> {
  return dataSource.query<LinkOpens[]>(
    `SELECT app_version AS "appVersion", chat_image_id IS NULL AS "sentOn",
       count(*) FILTER (WHERE opened_at > now() - interval '1 day') AS day,
       count(*) FILTER (WHERE opened_at > now() - interval '7 days') AS week,
       count(*) AS month
     FROM chat_image_link_opens WHERE opened_at > now() - interval '30 days'
     GROUP BY 1, 2 ORDER BY week DESC, month DESC, 1, 2`,
  );
}

/** One sentence: whether phase 4, which requires a token, would affect users. */
export function adviceOnPhase4(phase: MigrationPhase, opens: readonly LinkOpens[]): string {
  if (PHASE_RULES[phase].withoutToken === 'refused')
    return `Phase ${phase} is on: addresses without a token are refused, and not counted.`;
  const sum = (period: 'week' | 'month'): number =>
    opens.reduce((total, { [period]: count }) => total + count, 0);
  if (sum('week') > 0)
    return `Phase 4 would hurt people: in the last 7 days pictures were opened ${sum('week')} times without a token.`;
  if (sum('month') > 0)
    return `Phase 4 may hurt a few: nobody opened a picture without a token in the last 7 days, but ${sum('month')} times in 30.`;
  return 'Phase 4 would hurt nobody that is known of: no picture was opened without a token in the last 30 days.';
}
