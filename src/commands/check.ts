import { parseArgs, styleText } from 'node:util';
import { checkInstallation } from '../check/installation-check.js';
import type { Finding } from '../check/finding.js';
import { readEnvironment } from '../config/settings.js';
import { runCommand, UsageError } from './run-command.js';

const STATUS_WIDTH = 'skipped'.length;
const NAME_WIDTH = 24;

const COLOURS = { ok: 'green', warning: 'yellow', wrong: 'red', skipped: 'gray' } as const;

await runCommand(async () => {
  const { json } = readArguments();
  // Ignore signals: an interrupted run would leave its test object in the bucket. All checks end within seconds.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => process.stderr.write('Ends after the last check, to leave nothing behind.\n'));
  }
  const findings: Finding[] = [];
  for await (const finding of checkInstallation(readEnvironment())) {
    findings.push(finding);
    if (!json) process.stdout.write(`${lineOf(finding)}\n`);
  }
  if (json) process.stdout.write(`${JSON.stringify(findings, null, 2)}\n`);
  const count = (status: Finding['status']): number =>
    findings.filter((finding) => finding.status === status).length;
  const sum = `${count('ok')} ok, ${count('warning')} to look at, ${count('wrong')} wrong.`;
  if (count('wrong') > 0) throw new UsageError(sum);
  if (!json) process.stdout.write(`${sum}\n`);
});

function lineOf({ name, status, message }: Finding): string {
  const label = status.padEnd(STATUS_WIDTH);
  const shown =
    process.stdout.isTTY && process.stdout.hasColors() ? styleText(COLOURS[status], label) : label;
  return `${shown}  ${name.padEnd(NAME_WIDTH)} ${message}`;
}

function readArguments(): { json: boolean } {
  try {
    return parseArgs({ options: { json: { type: 'boolean', default: false } } }).values;
  } catch {
    throw new UsageError('Usage: npm run check [-- --json]');
  }
}
