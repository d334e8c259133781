const WIDTH = 30;

/** Shows a progress bar on standard error, only at a terminal. */
export function showProgress(done: number, total: number): void {
  if (!process.stderr.isTTY) return;
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const bar = '='.repeat(Math.round(share * WIDTH)).padEnd(WIDTH);
  process.stderr.write(`\r[${bar}] ${Math.floor(share * 100)} %  ${done} of ${Math.max(done, total)} `);
}

/** Ends the line of the progress bar. */
export function endProgress(): void {
  if (process.stderr.isTTY) process.stderr.write('\n');
}
