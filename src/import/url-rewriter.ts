import type { DataSource } from 'typeorm';
import { PHASE_RULES } from '../config/migration-phase.js';
import type { Settings } from '../config/settings.js';
import type { BucketAddresses } from './bucket-addresses.js';
import {
  type Change,
  LOCK_TRIES,
  type MessageColumn,
  MessageColumnError,
  type MessageRow,
} from './message-column.js';
import { readUndoFile, type UndoFile, type UndoLine } from './undo-file.js';

/** What becomes of a row. Rows with any other text are not counted. */
export type RowOutcome =
  | 'rewritten'
  | 'would be rewritten'
  | 'stable already'
  | 'picture not here'
  | 'too long for the column'
  | 'another file name'
  | 'put back'
  | 'as before already'
  | 'changed meanwhile'
  | 'row is gone';

export type RewriteEvents = {
  /** @param filePath the path of the picture; nothing else of a message is told */
  readonly outcome: (outcome: RowOutcome, filePath?: string) => void;
  readonly progress: (done: number, total: number) => void;
};

export type RewriteOptions = {
  /** Rows of one statement. */
  readonly batch: number;
  /** Ends the run after the batch that it works on. */
  readonly signal: AbortSignal;
};

/** Rows that are read at once. Most have no address, so several pages may make one batch. */
const PAGE = 5000;

/** Rows held by others that are remembered until the end. */
const MAX_HELD = 10_000;

/** Decides about rows as they are now. Outcomes of rows that are not changed are reported here. */
type Decide = (rows: readonly MessageRow[]) => Promise<readonly Change[]>;

type Work = {
  readonly decide: Decide;
  readonly beforeCommit: (made: readonly Change[]) => Promise<void>;
  readonly done: (change: Change) => void;
  /** The key of a row that another transaction has deleted. */
  readonly vanished: (key: string) => void;
};

/** Turns the bucket's and the CDN's addresses in messages into stable ones, and back. */
export class UrlRewriter {
  constructor(
    private readonly dataSource: DataSource,
    private readonly column: MessageColumn,
    private readonly events: RewriteEvents,
    private readonly options: RewriteOptions,
  ) {}

  /**
   * Rewrites the column from its first row to its last. What is done no longer has a bucket's address, so a run that was cut
   * can be started again.
   *
   * @param undo `undefined` changes nothing, and only counts
   * @throws MessageColumnError
   */
  async rewrite(
    addresses: BucketAddresses,
    settings: Pick<Settings, 'migration'>,
    undo: UndoFile | undefined,
  ): Promise<void> {
    const decide: Decide = (rows) => this.decide(rows, addresses, settings);
    const changes = new BatchedChanges(this.column, this.options, {
      decide,
      beforeCommit: async (made) => undo?.write(made),
      done: (change) => this.events.outcome('rewritten', pathOf(change.new)),
      vanished: () => this.events.outcome('row is gone'),
    });
    const total = await this.column.count();
    let read = 0;
    for (let after: string | undefined; !this.options.signal.aborted;) {
      const page = await this.column.page(after, PAGE);
      if (page.last === undefined) break;
      after = page.last;
      if (undo) await changes.add(page.rows);
      else
        for (const change of await decide(page.rows))
          this.events.outcome('would be rewritten', pathOf(change.new));
      read += page.read;
      this.events.progress(read, Math.max(read, total));
    }
    await changes.finish();
  }

  /**
   * Puts the old values back, where the value is still the one that was written.
   *
   * @throws MessageColumnError
   */
  async undo(path: string): Promise<void> {
    const lines = new Map<string, UndoLine>();
    const decide: Decide = (rows) =>
      Promise.resolve(
        rows.flatMap(({ key, value }) => {
          const line = lines.get(key);
          if (line?.new === value) return [{ key, old: line.new, new: line.old }];
          this.events.outcome(value === line?.old ? 'as before already' : 'changed meanwhile');
          return [];
        }),
      );
    const changes = new BatchedChanges(this.column, this.options, {
      decide,
      beforeCommit: () => Promise.resolve(),
      done: (change) => {
        lines.delete(change.key);
        this.events.outcome('put back', pathOf(change.old));
      },
      vanished: () => this.events.outcome('row is gone'),
    });
    let total = 0;
    for await (const line of readUndoFile(path)) {
      if (line.table !== this.column.table || line.column !== this.column.name)
        throw new MessageColumnError(`Line ${total + 1} of ${path} is of ${line.table}.${line.column}.`);
      total += 1;
    }
    let read = 0;
    let keys: string[] = [];
    const flush = async (): Promise<void> => {
      await changes.addKeys(keys);
      keys = [];
      this.events.progress(read, total);
    };
    for await (const line of readUndoFile(path)) {
      if (this.options.signal.aborted) break;
      if (keys.length === this.options.batch || lines.has(line.key)) await flush();
      lines.set(line.key, line);
      keys.push(line.key);
      read += 1;
    }
    await flush();
    await changes.finish();
  }

  private async decide(
    rows: readonly MessageRow[],
    addresses: BucketAddresses,
    { migration }: Pick<Settings, 'migration'>,
  ): Promise<readonly Change[]> {
    const found = rows.flatMap((row) => {
      const value = addresses.examine(row.value);
      if (value.kind === 'address of a picture') return [{ ...row, filePath: value.filePath }];
      if (value.kind !== 'something else') this.events.outcome(value.kind);
      // A page has no such rows: this one was held by another transaction, which has changed it.
      else if (row.value === '') this.events.outcome('changed meanwhile');
      return [];
    });
    const redirected =
      PHASE_RULES[migration.phase].notHereYet === 'legacy address' && migration.legacyMediaUrl !== undefined;
    const here = redirected ? undefined : await this.storedPaths(found.map(({ filePath }) => filePath));
    return found.flatMap(({ key, value, filePath }) => {
      const address = addresses.stableAddressOf(filePath);
      const obstacle =
        here?.has(filePath) === false
          ? 'picture not here'
          : this.column.fits(address)
            ? undefined
            : 'too long for the column';
      if (obstacle === undefined) return [{ key, old: value, new: address }];
      this.events.outcome(obstacle, filePath);
      return [];
    });
  }

  private async storedPaths(paths: readonly string[]): Promise<ReadonlySet<string>> {
    if (paths.length === 0) return new Set();
    const rows = await this.dataSource.query<{ path: string }[]>(
      `SELECT file_path AS path FROM chat_images WHERE file_path COLLATE "C" = ANY($1) AND state = 'stored'`,
      [paths],
    );
    return new Set(rows.map(({ path }) => path));
  }
}

/** Changes in batches. Rows that others hold are tried again at the end, so that one held row does not stop the others. */
class BatchedChanges {
  private held = new Set<string>();

  constructor(
    private readonly column: MessageColumn,
    private readonly options: RewriteOptions,
    private readonly work: Work,
  ) {}

  async add(rows: readonly MessageRow[]): Promise<void> {
    for (let start = 0; start < rows.length && !this.options.signal.aborted; start += this.options.batch) {
      const changes = await this.work.decide(rows.slice(start, start + this.options.batch));
      const made = await this.column.change(changes, this.work.beforeCommit);
      for (const change of changes) {
        if (made.has(change.key)) this.work.done(change);
        else this.held.add(change.key);
      }
      if (this.held.size >= MAX_HELD) await this.finish();
    }
  }

  async addKeys(keys: readonly string[]): Promise<void> {
    if (keys.length === 0) return;
    const rows = await this.column.rowsOf(keys);
    const there = new Set(rows.map(({ key }) => key));
    for (const key of keys) if (!there.has(key)) this.work.vanished(key);
    await this.add(rows);
  }

  /**
   * Waits for the rows that others hold, and does them as they are then.
   *
   * @throws MessageColumnError where they stay held
   */
  async finish(): Promise<void> {
    let tries = 0;
    let wasHeld = false;
    while (this.held.size > 0 && !this.options.signal.aborted) {
      const before = this.held;
      this.held = new Set();
      await this.addKeys([...before]);
      const [first] = this.held;
      if (first === undefined) return;
      if (this.held.size < before.size) tries = 0;
      if (tries === LOCK_TRIES) throw await this.stillHeld(wasHeld);
      tries += 1;
      wasHeld = !(await this.column.waitFor(first));
    }
  }

  private async stillHeld(wasHeld: boolean): Promise<MessageColumnError> {
    const { size } = this.held;
    const rows = `${size} ${size === 1 ? 'row' : 'rows'} of ${this.column.table}`;
    return new MessageColumnError(
      wasHeld
        ? `All is done but ${rows}, held by other transactions, of ${await this.column.holders()}. Wait until they have ended, then start the command again.`
        : `All is done but ${rows}: the update does not change them. Look at the triggers of the table.`,
    );
  }
}

/** The path of a picture in its stable address. */
function pathOf(address: string): string {
  return address.slice(address.indexOf('/chat_images/') + 1);
}
