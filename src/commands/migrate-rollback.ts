import { parseArgs } from 'node:util';
import { ImportRollback } from '../import/import-rollback.js';
import { confirm } from './ask.js';
import { withImportSession } from './import-session.js';
import { IncompleteError, runCommand, UsageError } from './run-command.js';

const USAGE = `Usage: npm run migrate:rollback -- --from <folder | s3://bucket/prefix> [--public] [--yes] [--report <file>] [--concurrency 8]

Puts the imported pictures back where they were, from the private storage, and keeps them here.
With --public everybody can open them again; in this service's own bucket that is the only way back.
Exit code: 0 all are back; 2 some are not, see the report; 1 stopped.`;

type Arguments = {
  readonly from: string;
  readonly makePublic: boolean;
  readonly yes: boolean;
  readonly report: string | undefined;
  readonly concurrency: number;
};

await runCommand(async () => {
  const { from, makePublic, yes, report: file, concurrency } = readArguments();
  await withImportSession(
    { from, report: file, name: 'migrate-rollback' },
    async ({ app, source, signal, report, counts }) => {
      if (makePublic && !yes) await confirm(`Open the imported pictures in ${source.name} to everybody?`);
      await app
        .get(ImportRollback)
        .putBack(
          source,
          { makePublic, concurrency },
          (path, result) => report({ file: path, outcome: result }),
          signal,
        );
      if (signal.aborted) throw new UsageError('Stopped: start it again for the rest.');
      if ([...counts.keys()].some((outcome) => outcome.startsWith('not put back')))
        throw new IncompleteError('Some pictures are not back: the reasons are in the report.');
    },
  );
});

function readArguments(): Arguments {
  try {
    const { values } = parseArgs({
      options: {
        from: { type: 'string' },
        public: { type: 'boolean', default: false },
        yes: { type: 'boolean', default: false },
        report: { type: 'string' },
        concurrency: { type: 'string', default: '8' },
      },
    });
    const { from, yes, report, concurrency } = values;
    if (from === undefined || !/^[1-9]\d?$/.test(concurrency)) throw new UsageError(USAGE);
    return { from, makePublic: values.public, yes, report, concurrency: Number(concurrency) };
  } catch {
    throw new UsageError(USAGE);
  }
}
