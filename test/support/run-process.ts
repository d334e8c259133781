import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';

/** A program that starts PostgreSQL needs half a minute on a busy machine. */
const WAIT_LIMIT_MS = 60_000;

/** A running program of the build, started as operators start it. */
export class RunningProcess {
  /** The whole output. */
  output = '';
  /** Resolves to the exit code. */
  readonly exit: Promise<number | null>;
  private readonly child: ChildProcess;

  /**
   * @param args the program below `dist/`, and its arguments
   * @param options the wrapper is a command that becomes the program, such as `nice node`
   */
  constructor(
    args: readonly string[],
    options: { env?: NodeJS.ProcessEnv; cwd?: string; wrapper?: readonly string[] } = {},
  ) {
    const [program = '', ...rest] = args;
    const [command = process.execPath, ...before] = options.wrapper ?? [];
    this.child = spawn(command, [...before, resolve('dist', program), ...rest], {
      cwd: options.cwd,
      // The environment of the tests is not passed on.
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ...options.env },
    });
    this.exit = once(this.child, 'close').then(([code]) => code as number | null);
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    }
  }

  /** Waits until the program has printed a pattern. */
  async printed(pattern: RegExp, limitMs = WAIT_LIMIT_MS): Promise<RegExpExecArray> {
    const deadline = Date.now() + limitMs;
    for (;;) {
      const match = pattern.exec(this.output);
      if (match) return match;
      const ended = await Promise.race([
        this.exit.then(() => true),
        new Promise((go) => setTimeout(go, 20, false)),
      ]);
      if ((ended && !pattern.test(this.output)) || Date.now() > deadline) {
        throw new Error(`${String(pattern)} was not printed, but:\n${this.output}`);
      }
    }
  }

  /** The process id. */
  get pid(): number {
    return this.child.pid ?? 0;
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name);
  }
}
