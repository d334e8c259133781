import { setTimeout } from 'node:timers/promises';
import { signalAll } from '../support/child-processes.js';
import { decodingProcesses } from '../support/decoding-processes.js';
import { RunningProcess } from '../support/run-process.js';
import type { EndFault } from './plan.js';

/** The time for a process to end after SIGTERM: its own timeout, and some time for the machine. */
const END_LIMIT_MS = 45_000;

/** The time for a process to listen, also on a busy machine, and the allowed number of failures without a cause. */
const START_LIMIT_MS = 90_000;
const MAX_FAILED_STARTS = 3;

/** The pause before a process that has ended is started again. */
const RESTART_PAUSE_MS = 1000;

/** Codes of error lines that the faults cause, and that are no findings. */
const EXPECTED_CODES = ['STORAGE_UNAVAILABLE', 'DATABASE_UNAVAILABLE', 'OVERLOADED'];
const EXPECTED_STATUS = 503;

/** The surroundings of an instance. */
export type Surroundings = {
  /** The number of faults of database and storage that have begun, and that last. */
  readonly disturbances: () => { readonly begun: number; readonly lasting: number };
  /** Called with each finding. */
  readonly onFinding: (text: string) => void;
};

/** An instance of the built service. As under an orchestrator, a process that ends is started again. */
export class ChaosInstance {
  private readonly processes: RunningProcess[] = [];
  /** The running process; undefined when this class has ended it. */
  private current: RunningProcess | undefined;
  private isOver = false;

  constructor(
    readonly name: string,
    private readonly environment: NodeJS.ProcessEnv,
    private readonly surroundings: Surroundings,
  ) {}

  /**
   * Resolves when the instance listens, which may need retries during a fault.
   *
   * @throws Error with its output when it does not start without a fault
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

  /** Kills the process at once. Resolves to a function that starts it again. */
  async kill(): Promise<EndFault> {
    const process = this.release();
    process?.signal('SIGKILL');
    await this.expectEnd(process);
    return () => this.start();
  }

  /** Ends the process with SIGTERM, and starts it again. */
  async restart(): Promise<void> {
    const process = this.release();
    process?.signal('SIGTERM');
    const code = await this.expectEnd(process);
    if (code !== 0) this.surroundings.onFinding(`${this.name} ended after SIGTERM with ${code}.`);
    await this.start();
  }

  /** Pauses the process. Returns a function that resumes it. */
  pause(): EndFault {
    const process = this.current;
    process?.signal('SIGSTOP');
    return () => process?.signal('SIGCONT');
  }

  killDecodingProcesses(): void {
    if (this.current) signalAll(decodingProcesses(this.current.pid), 'SIGKILL');
  }

  /** Ends the instance for good, in any state. */
  async stop(): Promise<void> {
    this.isOver = true;
    for (const process of this.processes) process.signal('SIGKILL');
    await Promise.all(this.processes.map(({ exit }) => exit));
  }

  /** The unexpected log lines of its processes. */
  findings(): readonly string[] {
    return this.processes
      .filter(({ output }) => output.includes('"listening"'))
      .flatMap(({ output }) => output.split('\n').slice(0, -1))
      .filter((line) => !isExpected(line))
      .map((line) => `${this.name} logged: ${line}`);
  }

  /** Makes the end of its process expected. */
  private release(): RunningProcess | undefined {
    const process = this.current;
    this.current = undefined;
    return process;
  }

  /** Waits for the end of a process and of its decoding processes, which share its output. */
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
    // The cause of a failed start is already a finding.
    await this.start().catch(() => undefined);
  }
}

/** Whether a healthy service writes this log line while its backends fail. */
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
