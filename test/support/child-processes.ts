import { readdirSync, readFileSync } from 'node:fs';

/** The processes that a process has started and that still run, by the numbers that Linux gives them. */
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

/** How a process was started, or the title that it has given itself. Nothing of one that has ended. */
export function commandLine(pid: number): string {
  return read(`/proc/${pid}/cmdline`);
}

/** Sends a signal to each process that has not ended meanwhile. */
export function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
    }
  }
}

/** Nothing of a process that has just ended. */
function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
