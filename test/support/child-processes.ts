import { readdirSync, readFileSync } from 'node:fs';

/** The pids of the running child processes of a process. */
export function childProcesses(parentPid: number): number[] {
  const isChild = (pid: string): boolean => {
    const stat = read(`/proc/${pid}/stat`);
    const [, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return parent === String(parentPid);
  };
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && isChild(name))
    .map(Number);
}

/** The command line or the title of a process; empty when it has ended. */
export function commandLine(pid: number): string {
  return read(`/proc/${pid}/cmdline`);
}

/** Sends a signal to each process that still runs. */
export function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
    }
  }
}

/** Empty for a process that has just ended. */
function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
