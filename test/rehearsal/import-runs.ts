import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import { eventually } from '../support/eventually.js';
import type { Commands, Ended, Started } from './commands.js';
import type { Findings } from './findings.js';
import type { Place } from './places.js';

/** The time for a run of the import to get where it is waited for. */
const LIMIT_MS = 180_000;

/** How often the lengths of files change between two looks at the run. */
const BURST = 500;

/** How often a run is killed until it has left something half done. */
const MAX_KILLS = 6;

/** Runs of `migrate:images` that are killed, that run at the same time, and that meet a file which changes. */
export class ImportRuns {
  constructor(
    private readonly commands: Commands,
    private readonly database: DataSource,
    private readonly place: Place,
    private readonly findings: Findings,
    private readonly args: readonly string[],
  ) {}

  start(): Started {
    return this.commands.start('images', this.args);
  }

  async stored(): Promise<number> {
    return (await this.pathsIn('stored')).length;
  }

  /** Starts a run, and kills it when so many pictures are stored. */
  async killAt(stored: number): Promise<void> {
    await this.kill(this.start(), async () => (await this.stored()) >= stored);
  }

  /**
   * Kills runs until one has left pictures half done: an object without its row, or in place a row whose object is still public.
   *
   * @returns their paths
   */
  async killHalfDone(): Promise<readonly string[]> {
    for (let kills = 0; kills < MAX_KILLS; kills += 1) {
      // What an earlier run has left does not count.
      const before = await this.halfDone();
      const isNew = (path: string): boolean => !before.includes(path);
      await this.kill(this.start(), async () => (await this.halfDone()).some(isNew));
      const left = await this.halfDone();
      if (left.length > 0) return left;
    }
    this.findings.add('commands', 'no killed run has left a picture half done.');
    return [];
  }

  /** Starts two runs at once, kills one in the middle, starts another, and waits for the end of both. */
  async runTwoAtOnce(killOneAt: number): Promise<void> {
    const [first, second] = [this.start(), this.start()];
    await this.kill(second, async () => (await this.stored()) >= killOneAt);
    const third = this.start();
    const [one, two] = await Promise.all([first.ended, third.ended]);
    for (const { code, output } of [one, two])
      if (code !== 2) this.findings.add('commands', `a run beside another ended with ${code}:\n${output}`);
    const byOne = storedIn(one);
    const both = [...storedIn(two)].filter((file) => byOne.has(file));
    this.findings.same('commands', 'pictures that two runs have stored', both, []);
    if (byOne.size > 0 && storedIn(two).size > 0)
      this.findings.count('two runs have stored pictures at once');
  }

  /**
   * Runs the import, and changes files while it works on them. A file of a folder changes its length all the time. For an
   * object, the process is stopped at the right moment.
   *
   * @returns its end, and the files that were changed
   */
  async runWhileChanging(
    changes: ReadonlyMap<string, Buffer>,
  ): Promise<{ readonly end: Ended; readonly changed: readonly string[] }> {
    const started = this.start();
    const changed: string[] = [];
    const isOver = { yes: false };
    void started.process.exit.then(() => (isOver.yes = true));
    if (!this.place.inPlace) {
      await this.changeLengths([...changes.keys()], isOver);
      for (const [path, bytes] of changes) await this.place.replace(path, bytes);
      return { end: await started.ended, changed: [...changes.keys()] };
    }
    while (!isOver.yes && changed.length < changes.size) {
      const path = (await this.pathsIn('registered')).find(
        (each) => changes.has(each) && !changed.includes(each),
      );
      if (path === undefined) {
        await setImmediate();
        continue;
      }
      started.process.signal('SIGSTOP');
      await eventually(() => isOver.yes || isStopped(started.process.pid), 'a process that is stopped');
      const bytes = changes.get(path);
      // It may have gone on until it was stopped.
      if (bytes && (await this.place.anonymousGet(path, '')) === 200) {
        await this.place.replace(path, bytes);
        changed.push(path);
      }
      started.process.signal('SIGCONT');
    }
    return { end: await started.ended, changed };
  }

  /** Changes the lengths of files of the folder until the run is over, much more often than a read takes. */
  private async changeLengths(paths: readonly string[], isOver: { readonly yes: boolean }): Promise<void> {
    const files = paths.map((path) => openSync(join(this.place.from, path), 'r+'));
    const lengths = files.map((file) => fstatSync(file).size);
    for (let count = 0; !isOver.yes;) {
      for (let burst = 0; burst < BURST; burst += 1, count += 1)
        files.forEach((file, index) => ftruncateSync(file, (lengths[index] ?? 0) + (count % 1000)));
      await setImmediate();
    }
    for (const file of files) closeSync(file);
  }

  /** Kills a run at a moment. */
  private async kill({ process, ended }: Started, when: () => Promise<boolean>): Promise<void> {
    const isOver = { yes: false };
    void process.exit.then(() => (isOver.yes = true));
    await eventually(async () => isOver.yes || (await when()), 'a moment of the import', LIMIT_MS);
    process.signal('SIGKILL');
    const { code, output } = await ended;
    if (code === null) this.findings.count('runs killed');
    else this.findings.add('commands', `a run ended with ${code} before it was killed:\n${output}`);
  }

  private async halfDone(): Promise<readonly string[]> {
    if (this.place.inPlace) return this.pathsIn('registered');
    const objects = await this.place.objects();
    const rows = await this.database.query<{ path: string }[]>(
      `SELECT path FROM unnest($1::text[]) path
       WHERE NOT EXISTS (SELECT FROM chat_images WHERE file_path = path)
         AND EXISTS (SELECT FROM chat_image_imports WHERE file_path = path)`,
      [objects],
    );
    return rows.map(({ path }) => path);
  }

  private async pathsIn(state: string): Promise<readonly string[]> {
    const rows = await this.database.query<{ path: string }[]>(
      'SELECT file_path AS path FROM chat_image_imports WHERE state = $1',
      [state],
    );
    return rows.map(({ path }) => path);
  }
}

export const storedIn = ({ report }: Ended): ReadonlySet<string> =>
  new Set(report.flatMap(({ file, outcome }) => (outcome === 'stored' ? [file] : [])));

function isStopped(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
  } catch {
    return true;
  }
}
