import type { DataSource } from 'typeorm';
import type { ImportState } from '../chat-images/entities/chat-image-import.entity.js';
import { PHASE_RULES } from '../config/migration-phase.js';
import type { MigrationPhase } from '../config/settings.js';

/** Counts of stable addresses opened without a token, by app version, in the last day, week and month. */
export type LinkOpens = {
  readonly appVersion: string;
  /** Whether the request was redirected to the old address, because the picture was not in this service yet. */
  readonly sentOn: boolean;
  readonly day: number;
  readonly week: number;
  readonly month: number;
};

/** The files of a source by what has become of them. */
export type ImportedSource = {
  readonly source: string;
  readonly files: Readonly<Record<ImportState, number>>;
  /** The most frequent reasons of failed files. */
  readonly reasons: readonly { readonly reason: string; readonly files: number }[];
};

export type MigrationStatus = {
  readonly phase: MigrationPhase;
  /** Sorted by frequency, highest first. */
  readonly opens: readonly LinkOpens[];
  readonly sources: readonly ImportedSource[];
};

const NO_FILES: Readonly<Record<ImportState, number>> = {
  waiting: 0,
  registered: 0,
  stored: 0,
  failed: 0,
  gone: 0,
  deleted: 0,
  closed: 0,
  returned: 0,
};

const MAX_REASONS = 5;

export async function readMigrationStatus(
  dataSource: DataSource,
  phase: MigrationPhase,
): Promise<MigrationStatus> {
  const opens = await dataSource.query<LinkOpens[]>(
    `SELECT app_version AS "appVersion", chat_image_id IS NULL AS "sentOn",
       count(*) FILTER (WHERE opened_at > now() - interval '1 day') AS day,
       count(*) FILTER (WHERE opened_at > now() - interval '7 days') AS week,
       count(*) AS month
     FROM chat_image_link_opens WHERE opened_at > now() - interval '30 days'
     GROUP BY 1, 2 ORDER BY week DESC, month DESC, 1, 2`,
  );
  const files = await dataSource.query<{ source: string; state: ImportState; files: number }[]>(
    'SELECT source, state, count(*) AS files FROM chat_image_imports GROUP BY 1, 2 ORDER BY 1, 2',
  );
  // A reason without the numbers that are of one file only.
  const reasons = await dataSource.query<{ source: string; reason: string; files: number }[]>(
    `SELECT source, regexp_replace(reason, '\\d+', '…', 'g') AS reason, count(*) AS files
     FROM chat_image_imports WHERE state = 'failed' GROUP BY 1, 2 ORDER BY 1, 3 DESC`,
  );
  return {
    phase,
    opens,
    sources: [...new Set(files.map(({ source }) => source))].map((source) => ({
      source,
      files: {
        ...NO_FILES,
        ...Object.fromEntries(
          files.filter((row) => row.source === source).map((row) => [row.state, row.files]),
        ),
      },
      reasons: reasons.filter((row) => row.source === source).slice(0, MAX_REASONS),
    })),
  };
}

/** One sentence: whether phase 4, which requires a token, would affect users. */
export function adviceOnPhase4({ phase, opens }: MigrationStatus): string {
  if (PHASE_RULES[phase].withoutToken === 'refused')
    return `Phase ${phase} is on: addresses without a token are refused, and not counted.`;
  if (opened(opens, 'week') > 0)
    return `Phase 4 would hurt people: in the last 7 days pictures were opened ${opened(opens, 'week')} times without a token.`;
  if (opened(opens, 'month') > 0)
    return `Phase 4 may hurt a few: nobody opened a picture without a token in the last 7 days, but ${opened(opens, 'month')} times in 30.`;
  return 'Phase 4 would hurt nobody that is known of: no picture was opened without a token in the last 30 days.';
}

/** One sentence: whether the installation is ready for the next phase, or why not. */
export function readiness({ phase, opens, sources }: MigrationStatus): string {
  const sum = (state: ImportState): number => sources.reduce((total, { files }) => total + files[state], 0);
  switch (phase) {
    case 1:
      return 'Ready for phase 2: the new app version can be tested.';
    case 2: {
      if (sources.length === 0)
        return 'Not ready for phase 3: no old pictures were imported (npm run migrate:images).';
      const waiting = sum('waiting') + sum('registered') + sum('returned');
      if (waiting > 0)
        return `Not ready for phase 3: ${waiting} old pictures wait for the import (npm run migrate:images).`;
      if (sum('failed') > 0)
        return `Not ready for phase 3: ${sum('failed')} old pictures could not be imported, and would be a 404. Where they may stay out, set the phase all the same.`;
      const sentOn = opened(
        opens.filter((row) => row.sentOn),
        'day',
      );
      return sentOn > 0
        ? `Not ready for phase 3: in the last day ${sentOn} requests were for pictures that are not here. Run the import once more.`
        : 'Ready for phase 3: all old pictures of the sources are here.';
    }
    case 3:
      return opened(opens, 'week') > 0
        ? 'Not ready for phase 4: pictures are still opened without a token.'
        : 'Ready for phase 4.';
    case 4: {
      const left = sum('stored');
      return left > 0
        ? `Phase 4 is the last. ${left} old pictures are still in their sources (npm run migrate:delete-source).`
        : 'Phase 4 is the last. No imported picture is left in its source.';
    }
  }
}

function opened(opens: readonly LinkOpens[], period: 'day' | 'week' | 'month'): number {
  return opens.reduce((total, { [period]: count }) => total + count, 0);
}
