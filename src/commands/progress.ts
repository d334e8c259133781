const WIDTH = 30;

/** How often a line is written where there is no terminal. */
const PLAIN_INTERVAL_MS = 5000;

let began = 0;
let lastPlain = 0;

/** Shows a progress bar on standard error, with rate and time left; plain lines where it is no terminal. */
export function showProgress(done: number, total: number): void {
  const now = performance.now();
  if (began === 0) began = lastPlain = now;
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const count = `${Math.floor(share * 100)} %  ${done} of ${Math.max(done, total)}${speedOf(done, total, now - began)}`;
  if (process.stderr.isTTY) {
    const bar = '='.repeat(Math.round(share * WIDTH)).padEnd(WIDTH);
    process.stderr.write(`\r[${bar}] ${count}\x1b[K`);
  } else if (now - lastPlain > PLAIN_INTERVAL_MS) {
    lastPlain = now;
    process.stderr.write(`${count}\n`);
  }
}

/** Ends the line of the progress bar. The next bar starts anew. */
export function endProgress(): void {
  if (process.stderr.isTTY) process.stderr.write('\n');
  began = 0;
}

function speedOf(done: number, total: number, ms: number): string {
  if (done === 0 || ms < 1000) return '';
  const rate = (done * 1000) / ms;
  const left = Math.max(0, total - done) / rate;
  return `  ${rate < 10 ? rate.toFixed(1) : Math.round(rate)}/s  ${durationOf(left)} left`;
}

function durationOf(seconds: number): string {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.ceil(seconds)} s`;
}
