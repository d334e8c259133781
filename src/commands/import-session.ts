import type { INestApplicationContext } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { loadSettings, readEnvironment } from '../config/settings.js';
import { ImportModule } from '../import/import.module.js';
import type { ImportSource } from '../import/import-source.js';
import { openSource } from '../import/open-source.js';
import { createLogger, NestLogger } from '../observability/logger.js';

/** A line of the report: what has become of a file. */
export type ReportLine = {
  readonly file: string;
  readonly outcome: string;
  readonly reason?: string | undefined;
  readonly as?: string | undefined;
};

export type ImportSession = {
  readonly app: INestApplicationContext;
  readonly source: ImportSource;
  /** Aborted by Ctrl-C and SIGTERM. */
  readonly signal: AbortSignal;
  /** Writes a line of the report, and counts its outcome. */
  readonly report: (line: ReportLine) => void;
  /** Number of files by outcome. */
  readonly counts: ReadonlyMap<string, number>;
};

type SessionOptions = {
  readonly from: string;
  readonly keepOriginalUnder?: string | undefined;
  /** The file of the report; made with the command's name and the time if left out. */
  readonly report: string | undefined;
  /** The command's name. */
  readonly name: string;
};

/** Opens the source, the database and the storage for a command, and prints the sums at the end. */
export async function withImportSession(
  { from, keepOriginalUnder, report, name }: SessionOptions,
  work: (session: ImportSession) => Promise<void>,
): Promise<void> {
  const environment = readEnvironment();
  const settings = loadSettings(environment);
  const source = await openSource({ from, keepOriginalUnder }, settings, environment);
  const logger = createLogger('warn');
  const app = await NestFactory.createApplicationContext(ImportModule.with(settings, logger), {
    logger: new NestLogger(logger),
    abortOnError: false,
  });
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      process.stderr.write('\nEnds after the files that it works on …\n');
      stop.abort();
    });
  const path = report ?? `${name}-${new Date().toISOString().replaceAll(/[:.]/g, '-')}.ndjson`;
  const lines = createWriteStream(path, { flags: 'a' });
  const counts = new Map<string, number>();
  try {
    await once(lines, 'open');
    await work({
      app,
      source,
      signal: stop.signal,
      report: (line) => {
        lines.write(`${JSON.stringify(line)}\n`);
        const sum = sumOf(line);
        counts.set(sum, (counts.get(sum) ?? 0) + 1);
      },
      counts,
    });
  } finally {
    lines.end();
    await once(lines, 'close');
    if (counts.size > 0) {
      console.table(
        Object.fromEntries(
          [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([sum, files]) => [sum, { files }]),
        ),
      );
      process.stdout.write(`A line for each file: ${path}\n`);
    }
    source.end();
    await app.close();
  }
}

/** Outcome and reason, without what is of one file only. */
function sumOf({ outcome, reason, as }: ReportLine): string {
  const detail = reason?.replaceAll(/\d{2,}|[\w-]*\/[\w./-]*/g, '…').replace(/\.$/, '') ?? as;
  return detail === undefined ? outcome : `${outcome}: ${detail}`;
}
