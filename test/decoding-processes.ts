import { readdirSync, readFileSync } from 'node:fs';

/** The decoding processes that this process has started, by the numbers that Linux gives them. */
export function decodingProcesses(): number[] {
  const isOurs = (pid: string): boolean => {
    const stat = read(`/proc/${pid}/stat`);
    const [, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return parent === String(process.pid) && read(`/proc/${pid}/cmdline`).includes('image-process.js');
  };
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && isOurs(name))
    .map(Number);
}

/** Nothing of a process that has just ended. */
function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
