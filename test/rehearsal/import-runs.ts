import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import { eventually } from '../support/eventually.js';
import type { Commands, Ended, Started } from './commands.js';
import type { Findings } from './findings.js';
import type { Place } from './places.js';

/** The time for a run of the import to get where it is waited for. */
const LIMIT_MS = 180_000;

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
   * Runs the import, and changes files while it works on them: the process is stopped at that moment.
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
    while (!isOver.yes && changed.length < changes.size) {
      const path = await this.workedOn(started.process.pid, changes, changed);
      if (path === undefined) {
        await setImmediate();
        continue;
      }
      if (!this.place.inPlace) waitUntilItReads(started.process.pid, this.place.from, path);
      started.process.signal('SIGSTOP');
      await eventually(() => isOver.yes || isStopped(started.process.pid), 'a process that is stopped');
      const bytes = changes.get(path);
      // It may have gone on until it was stopped.
      if (bytes && (await this.isStill(path, started.process.pid))) {
        await this.place.replace(path, bytes);
        changed.push(path);
      }
      started.process.signal('SIGCONT');
    }
    return { end: await started.ended, changed };
  }

  private async workedOn(
    pid: number,
    changes: ReadonlyMap<string, Buffer>,
    changed: readonly string[],
  ): Promise<string | undefined> {
    const paths = this.place.inPlace
      ? await this.pathsIn('registered')
      : [...openPictures(pid, this.place.from).keys()];
    return paths.find((path) => changes.has(path) && !changed.includes(path));
  }

  private async isStill(path: string, pid: number): Promise<boolean> {
    if (this.place.inPlace) return (await this.place.anonymousGet(path, '')) === 200;
    // Before it has begun to read, it would read the new bytes only.
    return (openPictures(pid, this.place.from).get(path) ?? 0) > 0;
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

/** How long a process that has opened a picture may take to read it. */
const READ_LIMIT_MS = 1000;

/** Waits until a process has read a part of a picture, without a pause in which it could read the rest. */
function waitUntilItReads(pid: number, root: string, path: string): void {
  for (const deadline = performance.now() + READ_LIMIT_MS; performance.now() < deadline;)
    if (openPictures(pid, root).get(path) !== 0) return;
}

/** Pictures that a process has open and has not read to their end, with the number of bytes that it has read. */
function openPictures(pid: number, root: string): ReadonlyMap<string, number> {
  const open = new Map<string, number>();
  try {
    for (const descriptor of readdirSync(`/proc/${pid}/fd`)) {
      const file = linkOf(`/proc/${pid}/fd/${descriptor}`);
      if (!file.startsWith(join(root, 'chat_images'))) continue;
      const facts = readFileSync(`/proc/${pid}/fdinfo/${descriptor}`, 'utf8');
      const position = Number(/^pos:\s*(\d+)/.exec(facts)?.[1]);
      if (position < statSync(file).size) open.set(file.slice(root.length + 1), position);
    }
  } catch {
    // The process, or the file, is closed meanwhile.
  }
  return open;
}

function linkOf(descriptor: string): string {
  try {
    return readlinkSync(descriptor);
  } catch {
    return '';
  }
}

function isStopped(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
  } catch {
    return true;
  }
}
