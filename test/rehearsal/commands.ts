import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execFileSync } from 'node:child_process';
import { RunningProcess } from '../support/run-process.js';

/** A line of a report. */
export type ReportLine = { readonly file: string; readonly outcome: string; readonly reason?: string };

/** A command that has ended. */
export type Ended = {
  /** `null` when it was killed. */
  readonly code: number | null;
  readonly output: string;
  readonly report: readonly ReportLine[];
};

/** A command that runs. */
export type Started = { readonly process: RunningProcess; readonly ended: Promise<Ended> };

/** Runs the commands of the migration as an operator does, each with a report of its own. */
export class Commands {
  constructor(
    private readonly folder: string,
    private readonly from: string,
    private readonly environment: () => NodeJS.ProcessEnv,
  ) {}

  /** @param name such as `images` */
  start(name: string, args: readonly string[] = []): Started {
    const report = join(this.folder, `${name}-${randomUUID()}.ndjson`);
    const process = new RunningProcess(
      [`commands/migrate-${name}.js`, '--from', this.from, '--report', report, ...args],
      { env: this.environment(), cwd: this.folder, wrapper: WITHOUT_RIGHTS_OF_ROOT },
    );
    const ended = process.exit.then(async (code): Promise<Ended> => {
      // A killed process may have written half a line.
      const lines = (await readFile(report, 'utf8').catch(() => '')).split('\n').slice(0, -1);
      return { code, output: process.output, report: lines.map((line) => JSON.parse(line) as ReportLine) };
    });
    return { process, ended };
  }

  run(name: string, args: readonly string[] = []): Promise<Ended> {
    return this.start(name, args).ended;
  }
}

/** Whether a command can be kept from reading a file, as another user would be. */
export const canBeUnreadable = process.getuid?.() !== 0 || hasSetpriv();

/** Root reads every file. Without these two rights it reads as other users do. */
const WITHOUT_RIGHTS_OF_ROOT: readonly string[] =
  process.getuid?.() === 0 && canBeUnreadable
    ? [
        'setpriv',
        '--bounding-set=-dac_override,-dac_read_search',
        '--inh-caps=-dac_override,-dac_read_search',
        process.execPath,
      ]
    : [];

function hasSetpriv(): boolean {
  try {
    execFileSync('setpriv', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
