import { parseArgs } from 'node:util';
import { type Comparison, ImportVerifier, NEEDS_ATTENTION } from '../import/import-verifier.js';
import { withImportSession } from './import-session.js';
import { IncompleteError, runCommand, UsageError } from './run-command.js';

const USAGE = `Usage: npm run migrate:verify -- --from <folder | s3://bucket/prefix> [--report <file>] [--concurrency 8]

Compares the source with what was imported from it, by digests, in both directions. Changes nothing.
Exit code: 0 all is as it should be; 2 something is not, see the report; 1 the comparison has stopped.`;

await runCommand(async () => {
  const { from, report: file, concurrency } = readArguments();
  await withImportSession({ from, report: file, name: 'migrate-verify' }, async ({ app, source, report }) => {
    const found = new Set<Comparison>();
    await app.get(ImportVerifier).compare(source, concurrency, (path, comparison) => {
      found.add(comparison);
      report({ file: path, outcome: comparison });
    });
    if ([...found].some((comparison) => NEEDS_ATTENTION.has(comparison)))
      throw new IncompleteError('Source and storage differ: look at the report.');
  });
});

function readArguments(): { from: string; report: string | undefined; concurrency: number } {
  try {
    const { values } = parseArgs({
      options: {
        from: { type: 'string' },
        report: { type: 'string' },
        concurrency: { type: 'string', default: '8' },
      },
    });
    const { from, report, concurrency } = values;
    if (from === undefined || !/^[1-9]\d?$/.test(concurrency)) throw new UsageError(USAGE);
    return { from, report, concurrency: Number(concurrency) };
  } catch {
    throw new UsageError(USAGE);
  }
}
