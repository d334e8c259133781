import { parseArgs } from 'node:util';
import { type RemovalOptions, SourceRemover } from '../import/source-remover.js';
import { confirm, parseAge } from './ask.js';
import { withImportSession } from './import-session.js';
import { IncompleteError, runCommand, UsageError } from './run-command.js';

const USAGE = `Usage: npm run migrate:delete-source -- --from <folder | s3://bucket/prefix> [--grace 30d] [--make-private] [--limit <number>] [--yes]
       [--report <file>] [--concurrency 8]

Deletes from the source the pictures that are stored here for longer than --grace, each verified once more.
In this service's own bucket it deletes the kept originals. With --make-private it only closes them to the public.
Exit code: 0 done; 2 some files were kept, see the report; 1 stopped.`;

type Arguments = RemovalOptions & {
  readonly from: string;
  readonly report: string | undefined;
  readonly yes: boolean;
};

await runCommand(async () => {
  const { from, report: file, yes, ...options } = readArguments();
  await withImportSession(
    { from, report: file, name: 'migrate-delete-source' },
    async ({ app, source, signal, report, counts }) => {
      const remover = app.get(SourceRemover);
      const files = await remover.count(source, options);
      const task = options.makePrivate ? 'Close' : 'Delete for good';
      process.stdout.write(`${source.name}: ${files} pictures are stored here for longer than --grace.\n`);
      if (files === 0) return;
      if (!yes) await confirm(`${task} these ${files} files in ${source.name}?`);
      await remover.remove(
        source,
        options,
        (path, removal) => report({ file: path, outcome: removal }),
        signal,
      );
      if (signal.aborted) throw new UsageError('Stopped: start it again for the rest.');
      if ([...counts.keys()].some((outcome) => outcome.startsWith('kept')))
        throw new IncompleteError('Some files were kept: the reasons are in the report.');
    },
  );
});

function readArguments(): Arguments {
  try {
    const { values } = parseArgs({
      options: {
        from: { type: 'string' },
        grace: { type: 'string', default: '30d' },
        'make-private': { type: 'boolean', default: false },
        limit: { type: 'string' },
        yes: { type: 'boolean', default: false },
        report: { type: 'string' },
        concurrency: { type: 'string', default: '8' },
      },
    });
    const { from, grace, limit, yes, report, concurrency } = values;
    const graceSeconds = parseAge(grace);
    const isLimit = limit === undefined || /^[1-9]\d{0,8}$/.test(limit);
    if (from === undefined || graceSeconds === undefined || !isLimit || !/^[1-9]\d?$/.test(concurrency))
      throw new UsageError(USAGE);
    return {
      from,
      graceSeconds,
      makePrivate: values['make-private'],
      limit: limit === undefined ? Infinity : Number(limit),
      yes,
      report,
      concurrency: Number(concurrency),
    };
  } catch {
    throw new UsageError(USAGE);
  }
}
