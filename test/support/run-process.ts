import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';

/** For what hangs: on a busy machine, a program that starts PostgreSQL needs half a minute. */
const WAIT_LIMIT_MS = 60_000;

/** A program of the build, running as an operator or a newcomer would run it. */
export class RunningProcess {
  /** Everything that it has printed. */
  output = '';
  /** Resolves to its exit code. */
  readonly exit: Promise<number | null>;
  private readonly child: ChildProcess;

  /** @param args the program below `dist/`, and its arguments */
  constructor(args: readonly string[], options: { env?: NodeJS.ProcessEnv; cwd?: string } = {}) {
    const [program = '', ...rest] = args;
    this.child = spawn(process.execPath, [resolve('dist', program), ...rest], {
      cwd: options.cwd,
      // Not the environment of the tests: what a program needs is named.
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ...options.env },
    });
    this.exit = once(this.child, 'close').then(([code]) => code as number | null);
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    }
  }

  /** Waits until it has printed something. */
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

  /** The number that the system gives it. */
  get pid(): number {
    return this.child.pid ?? 0;
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name);
  }
}
