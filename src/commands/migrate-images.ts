import { parseArgs } from 'node:util';
import { DataSource } from 'typeorm';
import { parseId } from '../database/parse-id.js';
import { type ImportOptions, ImageImporter } from '../import/image-importer.js';
import { refuseLoss } from '../import/open-source.js';
import { type UploaderOptions, Uploaders } from '../import/uploaders.js';
import { withImportSession } from './import-session.js';
import { endProgress, showProgress } from './progress.js';
import { IncompleteError, runCommand, UsageError } from './run-command.js';

const USAGE = `Usage: npm run migrate:images -- --from <folder | s3://bucket/prefix> <who sent the pictures> [options]

Who sent the pictures, at least one of:
  --manifest <file.csv>          columns file_path, uploaded_by and, where known, created_at
  --uploader-query <SQL>         the same columns from the database of DATABASE_URL
  --default-uploader <patient | doctor | user id>

Options:
  --dry-run                      examines all, changes nothing
  --keep-bytes                   stores the bytes as they are, with their metadata
  --lenient                      brings in pictures that an upload would refuse, as they are
  --keep-original-under <prefix> in this service's own bucket: where the original bytes are kept
  --since <date>                 only pictures with this time in their name, or a later one
  --limit <number>               the most pictures of this run
  --concurrency <number>         pictures at the same time, 8 if not said
  --report <file>                a line of JSON for each file; migrate-images-<time>.ndjson if not said

Exit code: 0 all pictures are here; 2 some are not, see the report; 1 the run has stopped.`;

type Arguments = {
  readonly from: string;
  readonly keepOriginalUnder: string | undefined;
  readonly report: string | undefined;
  readonly uploaders: UploaderOptions;
  readonly options: ImportOptions;
};

await runCommand(async () => {
  const { from, keepOriginalUnder, report: file, uploaders, options } = readArguments();
  await withImportSession(
    { from, keepOriginalUnder, report: file, name: 'migrate-images' },
    async ({ app, source, signal, report, counts }) => {
      refuseLoss(source, keepOriginalUnder, options.keepBytes);
      const began = performance.now();
      const waiting = await app.get(ImageImporter).run(
        source,
        await Uploaders.read(uploaders, app.get(DataSource)),
        options,
        {
          report,
          listed: (pictures) => {
            if (process.stderr.isTTY) process.stderr.write(`\rFound ${pictures} pictures …\x1b[K`);
          },
          progress: showProgress,
        },
        signal,
      );
      endProgress();
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      process.stdout.write(`${source.name}${source.isTarget ? ', in place' : ''}: ${seconds} s\n`);
      if (signal.aborted) throw new UsageError(`Stopped. ${waiting} pictures wait: start it again.`);
      if (waiting > 0)
        throw new IncompleteError(`${waiting} pictures wait: for another run, or beyond --limit.`);
      if ([...counts.keys()].some((outcome) => /^(failed|gone)/.test(outcome)))
        throw new IncompleteError('Some pictures are not here: the reasons are in the report.');
    },
  );
});

function readArguments(): Arguments {
  try {
    const { values } = parseArgs({
      options: {
        from: { type: 'string' },
        manifest: { type: 'string' },
        'uploader-query': { type: 'string' },
        'default-uploader': { type: 'string' },
        'dry-run': { type: 'boolean', default: false },
        'keep-bytes': { type: 'boolean', default: false },
        lenient: { type: 'boolean', default: false },
        'keep-original-under': { type: 'string' },
        since: { type: 'string' },
        limit: { type: 'string' },
        concurrency: { type: 'string', default: '8' },
        report: { type: 'string' },
      },
    });
    const { from, manifest, since, limit } = values;
    const query = values['uploader-query'];
    const fallback = defaultUploaderOf(values['default-uploader']);
    if (from === undefined || (manifest ?? query ?? fallback) === undefined) throw new UsageError(USAGE);
    const date = since === undefined ? undefined : new Date(since);
    if (date && Number.isNaN(date.getTime())) throw new UsageError(USAGE);
    return {
      from,
      keepOriginalUnder: values['keep-original-under'],
      report: values.report,
      uploaders: { manifest, query, default: fallback },
      options: {
        keepBytes: values['keep-bytes'],
        lenient: values.lenient,
        dryRun: values['dry-run'],
        concurrency: numberOf(values.concurrency, 64),
        limit: limit === undefined ? Infinity : numberOf(limit, 1_000_000_000),
        since: date,
      },
    };
  } catch {
    throw new UsageError(USAGE);
  }
}

function defaultUploaderOf(text: string | undefined): UploaderOptions['default'] {
  if (text === undefined || text === 'patient' || text === 'doctor') return text;
  const id = parseId(text);
  if (id === undefined) throw new UsageError(USAGE);
  return id;
}

function numberOf(text: string, max: number): number {
  const number = parseId(text);
  if (number === undefined || number > max) throw new UsageError(USAGE);
  return number;
}
