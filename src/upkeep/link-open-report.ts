import type { DataSource } from 'typeorm';
import type { MigrationPhase } from '../config/settings.js';
import { PHASE_RULES } from '../config/migration-phase.js';

/** Opens of stable addresses without a token, by an app, in the days before now. */
export type LinkOpens = {
  readonly appVersion: string;
  /** Whether the picture was not here yet, so that the request was sent on to its old place. */
  readonly sentOn: boolean;
  readonly day: number;
  readonly week: number;
  readonly month: number;
};

/** @returns the most frequent first */
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

/** One sentence: whether phase 4, in which a token is needed, would hurt anybody. */
export function adviceOnPhase4(phase: MigrationPhase, opens: readonly LinkOpens[]): string {
  if (PHASE_RULES[phase].withoutToken === 'refused')
    return `Phase ${phase} is on: addresses without a token are refused, and not counted.`;
  const sum = (of: 'week' | 'month'): number => opens.reduce((total, { [of]: count }) => total + count, 0);
  if (sum('week') > 0)
    return `Phase 4 would hurt people: in the last 7 days pictures were opened ${sum('week')} times without a token.`;
  if (sum('month') > 0)
    return `Phase 4 may hurt a few: nobody opened a picture without a token in the last 7 days, but ${sum('month')} times in 30.`;
  return 'Phase 4 would hurt nobody that is known of: no picture was opened without a token in the last 30 days.';
}
