import { setTimeout } from 'node:timers/promises';
import { signalAll } from '../support/child-processes.js';
import { decodingProcesses } from '../support/decoding-processes.js';
import { RunningProcess } from '../support/run-process.js';
import type { EndFault } from './plan.js';

/** How long a process may take to end after SIGTERM: its own limit, and some time for the machine. */
const END_LIMIT_MS = 45_000;

/** How long a process may take to listen, also on a machine with much else to do, and how often that may fail without a cause. */
const START_LIMIT_MS = 90_000;
const MAX_FAILED_STARTS = 3;

/** How soon a process is started again that has ended on its own. */
const RESTART_PAUSE_MS = 1000;

/** Lines of the log at level error that are no finding: the faults lead to these. */
const EXPECTED_CODES = ['STORAGE_UNAVAILABLE', 'DATABASE_UNAVAILABLE', 'OVERLOADED'];
const EXPECTED_STATUS = 503;

/** What goes on around an instance. */
export type Surroundings = {
  /** How many faults of a database or a storage have begun, and how many of them last. */
  readonly disturbances: () => { readonly begun: number; readonly lasting: number };
  /** Told of what should not have been. */
  readonly onFinding: (text: string) => void;
};

/** An instance of the built service, run as by an orchestrator: whenever its process ends, another one is started. */
export class ChaosInstance {
  private readonly processes: RunningProcess[] = [];
  /** The process that runs, unless somebody here has ended it. */
  private current: RunningProcess | undefined;
  private isOver = false;

  constructor(
    readonly name: string,
    private readonly environment: NodeJS.ProcessEnv,
    private readonly surroundings: Surroundings,
  ) {}

  /**
   * Resolves when it listens. While a database or a storage is disturbed it may need several tries.
   *
   * @throws Error with its output when it does not start though nothing is disturbed
   */
  async start(): Promise<void> {
    for (let failures = 0; !this.isOver;) {
      const before = this.surroundings.disturbances();
      const process = new RunningProcess(['main.js'], { env: this.environment });
      this.processes.push(process);
      this.current = process;
      try {
        await process.printed(/"listening"/, START_LIMIT_MS);
        void process.exit.then((code) => this.ended(process, code));
        return;
      } catch {
        const after = this.surroundings.disturbances();
        if (before.lasting === 0 && after.begun === before.begun) {
          failures += 1;
          this.surroundings.onFinding(`${this.name} did not start:\n${process.output}`);
          if (failures === MAX_FAILED_STARTS)
            throw new Error(`${this.name} does not start:\n${process.output}`);
        }
        process.signal('SIGKILL');
        await setTimeout(RESTART_PAUSE_MS);
      }
    }
  }

  /** Ends it in whatever it does. Resolves to what starts it again. */
  async kill(): Promise<EndFault> {
    const process = this.release();
    process?.signal('SIGKILL');
    await this.expectEnd(process);
    return () => this.start();
  }

  /** Asks it to end, waits for that, and starts it again. */
  async restart(): Promise<void> {
    const process = this.release();
    process?.signal('SIGTERM');
    const code = await this.expectEnd(process);
    if (code !== 0) this.surroundings.onFinding(`${this.name} ended after SIGTERM with ${code}.`);
    await this.start();
  }

  /** Stops it where it is. Returns what lets it go on. */
  pause(): EndFault {
    const process = this.current;
    process?.signal('SIGSTOP');
    return () => process?.signal('SIGCONT');
  }

  killDecodingProcesses(): void {
    if (this.current) signalAll(decodingProcesses(this.current.pid), 'SIGKILL');
  }

  /** Ends it for good, in whatever state it is. */
  async stop(): Promise<void> {
    this.isOver = true;
    for (const process of this.processes) process.signal('SIGKILL');
    await Promise.all(this.processes.map(({ exit }) => exit));
  }

  /** What its processes have logged that should not have been. */
  findings(): readonly string[] {
    return this.processes
      .filter(({ output }) => output.includes('"listening"'))
      .flatMap(({ output }) => output.split('\n').slice(0, -1))
      .filter((line) => !isExpected(line))
      .map((line) => `${this.name} logged: ${line}`);
  }

  /** From now on the end of its process is no surprise. */
  private release(): RunningProcess | undefined {
    const process = this.current;
    this.current = undefined;
    return process;
  }

  /** Waits for the end of a process, and of the decoding processes that it has started, which share its output. */
  private async expectEnd(process: RunningProcess | undefined): Promise<number | null> {
    const timer = new AbortController();
    const late = setTimeout(END_LIMIT_MS, 'late' as const, { signal: timer.signal });
    const code = await Promise.race([process?.exit ?? null, late.catch(() => null)]);
    timer.abort();
    if (code !== 'late') return code;
    this.surroundings.onFinding(`${this.name} did not end within ${END_LIMIT_MS / 1000} s.`);
    process?.signal('SIGKILL');
    return null;
  }

  private async ended(process: RunningProcess, code: number | null): Promise<void> {
    if (this.current !== process || this.isOver) return;
    this.release();
    this.surroundings.onFinding(`${this.name} ended on its own with the code ${code}.`);
    await setTimeout(RESTART_PAUSE_MS);
    // What keeps it from starting is among the findings already.
    await this.start().catch(() => undefined);
  }
}

/** Whether a line of the log is one that a healthy service writes while its backends fail. */
function isExpected(line: string): boolean {
  let entry: { level?: string; code?: string; status?: number };
  try {
    entry = JSON.parse(line) as typeof entry;
  } catch {
    return false;
  }
  if (entry.level !== 'error' && entry.level !== 'fatal') return true;
  return entry.code === undefined ? entry.status === EXPECTED_STATUS : EXPECTED_CODES.includes(entry.code);
}
