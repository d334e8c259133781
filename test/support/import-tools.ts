import type { INestApplicationContext } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { DataSource } from 'typeorm';
import type { ReportLine } from '../../src/commands/import-session.js';
import { loadSettings, type Settings } from '../../src/config/settings.js';
import { ImageImporter, type ImportOptions } from '../../src/import/image-importer.js';
import { ImportRollback } from '../../src/import/import-rollback.js';
import type { ImportSource } from '../../src/import/import-source.js';
import { ImportVerifier } from '../../src/import/import-verifier.js';
import { ImportModule } from '../../src/import/import.module.js';
import { openSource, refuseLoss } from '../../src/import/open-source.js';
import { type RemovalOptions, SourceRemover } from '../../src/import/source-remover.js';
import { type UploaderOptions, Uploaders } from '../../src/import/uploaders.js';
import { createLogger } from '../../src/observability/logger.js';

type MigrateOptions = Partial<ImportOptions & UploaderOptions> & { readonly keepOriginalUnder?: string };

/** The commands of the import in this process, which takes less time than a process for each. */
export class ImportTools {
  private constructor(
    private readonly app: INestApplicationContext,
    private readonly settings: Settings,
    private readonly environment: NodeJS.ProcessEnv,
  ) {}

  static async start(environment: NodeJS.ProcessEnv): Promise<ImportTools> {
    const settings = loadSettings(environment);
    const app = await NestFactory.createApplicationContext(
      ImportModule.with(settings, createLogger('silent')),
      { logger: false },
    );
    return new ImportTools(app, settings, environment);
  }

  close(): Promise<void> {
    return this.app.close();
  }

  migrate(
    from: string,
    { keepOriginalUnder, ...options }: MigrateOptions = {},
  ): Promise<readonly ReportLine[]> {
    return this.run(from, keepOriginalUnder, async (source, report) => {
      refuseLoss(source, keepOriginalUnder, options.keepBytes ?? false);
      const senders = { manifest: undefined, query: undefined, default: 'patient', ...options } as const;
      await this.app.get(ImageImporter).run(
        source,
        await Uploaders.read(senders, this.app.get(DataSource)),
        {
          keepBytes: false,
          lenient: false,
          dryRun: false,
          concurrency: 8,
          limit: Infinity,
          since: undefined,
          ...options,
        },
        { report, listed: () => undefined, progress: () => undefined },
        new AbortController().signal,
      );
    });
  }

  verify(from: string): Promise<readonly ReportLine[]> {
    return this.run(from, undefined, (source, report) =>
      this.app.get(ImportVerifier).compare(source, 8, (file, outcome) => report({ file, outcome })),
    );
  }

  deleteSource(from: string, options: Partial<RemovalOptions> = {}): Promise<readonly ReportLine[]> {
    return this.run(from, undefined, (source, report) =>
      this.app
        .get(SourceRemover)
        .remove(
          source,
          { makePrivate: false, graceSeconds: 0, limit: Infinity, concurrency: 8, ...options },
          (file, outcome) => report({ file, outcome }),
          new AbortController().signal,
        ),
    );
  }

  rollback(from: string, makePublic = false): Promise<readonly ReportLine[]> {
    return this.run(from, undefined, (source, report) =>
      this.app
        .get(ImportRollback)
        .putBack(
          source,
          { makePublic, concurrency: 8 },
          (file, outcome) => report({ file, outcome }),
          new AbortController().signal,
        ),
    );
  }

  private async run(
    from: string,
    keepOriginalUnder: string | undefined,
    work: (source: ImportSource, report: (line: ReportLine) => void) => Promise<void>,
  ): Promise<readonly ReportLine[]> {
    const lines: ReportLine[] = [];
    const source = await openSource({ from, keepOriginalUnder }, this.settings, this.environment);
    try {
      await work(source, (line) => lines.push(line));
    } finally {
      source.end();
    }
    return lines;
  }
}
