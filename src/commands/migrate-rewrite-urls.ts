import { parseArgs } from 'node:util';
import { DataSource } from 'typeorm';
import { loadSettings, readEnvironment, type Settings } from '../config/settings.js';
import { migrationDataSourceOptions } from '../database/data-source-options.js';
import { parseId } from '../database/parse-id.js';
import { BucketAddresses } from '../import/bucket-addresses.js';
import { MessageColumn, MessageColumnError } from '../import/message-column.js';
import { readUndoFile, UndoFile, type UndoLine } from '../import/undo-file.js';
import { type RewriteEvents, type RowOutcome, UrlRewriter } from '../import/url-rewriter.js';
import { endProgress, showProgress } from './progress.js';
import { indented, RowOutcomes } from './row-outcomes.js';
import { IncompleteError, runCommand, UsageError } from './run-command.js';

const USAGE = `Usage: npm run migrate:rewrite-urls -- --table <name> --column <name> [options]
       npm run migrate:rewrite-urls -- --undo <file>   puts the old values of an undo file back

Without --apply it counts, shows examples, and changes nothing.

Options:
  --apply             rewrites the addresses
  --address <url>     another address of the pictures, such as the CDN's own host; may be given several times
  --undo-file <file>  where the old values are written; migrate-rewrite-urls-<time>.ndjson if not said
  --batch <number>    rows of one transaction, 500 if not said

Exit code: 0 all is done; 2 some addresses stay as they are; 1 the run has stopped.`;

const MAX_BATCH = 10_000;

/** Outcomes after which an address stays that will not work once the pictures are private. */
const LEFT: readonly RowOutcome[] = ['picture not here', 'too long for the column'];

type Arguments = {
  readonly table: string | undefined;
  readonly column: string | undefined;
  readonly apply: boolean;
  readonly undo: string | undefined;
  readonly addresses: readonly string[];
  readonly undoFile: string;
  readonly batch: number;
};

await runCommand(async () => {
  const options = readArguments();
  const settings = loadSettings(readEnvironment());
  const dataSource = await new DataSource(migrationDataSourceOptions(settings.database, [])).initialize();
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      process.stderr.write('\nEnds after the batch that it works on …\n');
      stop.abort();
    });
  const outcomes = new RowOutcomes();
  try {
    if (options.undo === undefined) await rewrite(dataSource, settings, options, outcomes, stop.signal);
    else await undo(dataSource, options.undo, options, outcomes, stop.signal);
    if (stop.signal.aborted) throw new UsageError('Stopped. What is done stays done: start it again.');
  } catch (error) {
    if (error instanceof MessageColumnError) throw new UsageError(error.message);
    throw error;
  } finally {
    await dataSource.destroy();
  }
  const left = LEFT.reduce((sum, outcome) => sum + outcomes.count(outcome), 0);
  if (left > 0)
    throw new IncompleteError(
      `${left} addresses stay as they are. Pictures that are not here: npm run migrate:images. A column that is too short: make it longer. Then start this command again.`,
    );
});

async function rewrite(
  dataSource: DataSource,
  settings: Settings,
  options: Arguments,
  outcomes: RowOutcomes,
  signal: AbortSignal,
): Promise<void> {
  const { table, column: name, apply, batch } = options;
  if (table === undefined || name === undefined) throw new UsageError(USAGE);
  const addresses = new BucketAddresses(settings, options.addresses);
  if (addresses.names.length === 0)
    throw new UsageError('No address of old pictures is known: set LEGACY_MEDIA_URL, or add --address.');
  const column = await MessageColumn.open(dataSource, { table, column: name, write: apply });
  say(
    apply
      ? `Rewrites ${column.table}.${column.name}.`
      : `Dry run: ${column.table}.${column.name} is read, and nothing is changed.`,
  );
  say(`Looks for addresses that begin with, after http:// or https://:\n${indented(addresses.names)}`);
  const file = apply
    ? new UndoFile(options.undoFile, { table: column.table, column: column.name })
    : undefined;
  try {
    await new UrlRewriter(dataSource, column, eventsOf(outcomes), { batch, signal }).rewrite(
      addresses,
      settings,
      file,
    );
  } finally {
    endProgress();
    await file?.close();
    outcomes.print();
    if (file?.isWritten) say(`To undo this run: npm run migrate:rewrite-urls -- --undo ${file.path}`);
  }
  if (!apply && outcomes.count('would be rewritten') > 0) say('To rewrite them, add --apply.');
}

async function undo(
  dataSource: DataSource,
  path: string,
  { table, column: name, batch }: Arguments,
  outcomes: RowOutcomes,
  signal: AbortSignal,
): Promise<void> {
  const first = await firstLineOf(path);
  if (!first) throw new UsageError(`${path} has no lines: there is nothing to undo.`);
  const column = await MessageColumn.open(dataSource, {
    table: table ?? first.table,
    column: name ?? first.column,
    write: true,
  });
  say(`Puts the old values of ${column.table}.${column.name} back.`);
  try {
    await new UrlRewriter(dataSource, column, eventsOf(outcomes), { batch, signal }).undo(path);
  } finally {
    endProgress();
    outcomes.print();
  }
}

async function firstLineOf(path: string): Promise<UndoLine | undefined> {
  for await (const line of readUndoFile(path)) return line;
  return undefined;
}

function eventsOf(outcomes: RowOutcomes): RewriteEvents {
  return {
    outcome: (outcome, filePath) => outcomes.add(outcome, filePath),
    progress: showProgress,
  };
}

function readArguments(): Arguments {
  try {
    const { values } = parseArgs({
      options: {
        table: { type: 'string' },
        column: { type: 'string' },
        apply: { type: 'boolean', default: false },
        undo: { type: 'string' },
        address: { type: 'string', multiple: true, default: [] },
        'undo-file': { type: 'string' },
        batch: { type: 'string', default: '500' },
      },
    });
    const { table, column, apply, undo, address } = values;
    const batch = parseId(values.batch);
    const isRewriting = table !== undefined && column !== undefined;
    if (batch === undefined || batch > MAX_BATCH || (undo === undefined && !isRewriting))
      throw new UsageError(USAGE);
    if (undo !== undefined && (address.length > 0 || values['undo-file'] !== undefined))
      throw new UsageError(USAGE);
    if (!address.every(isAddress))
      throw new UsageError(
        '--address must be an absolute http(s) URL without query, such as https://cdn.example.com',
      );
    return {
      table,
      column,
      apply,
      undo,
      addresses: address,
      undoFile:
        values['undo-file'] ??
        `migrate-rewrite-urls-${new Date().toISOString().replaceAll(/[:.]/g, '-')}.ndjson`,
      batch,
    };
  } catch (error) {
    throw error instanceof UsageError ? error : new UsageError(USAGE);
  }
}

function isAddress(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, search, hash, username, password } = new URL(text);
  return /^https?:$/.test(protocol) && search + hash + username + password === '';
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
