import { createInterface } from 'node:readline/promises';
import { UsageError } from './run-command.js';

const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** @returns the seconds of a text such as `30d`, `12h`, `5m` or `0s`; `undefined` for any other text */
export function parseAge(text: string): number | undefined {
  const [, count = '', unit = ''] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  return count === '' ? undefined : Number(count) * (SECONDS[unit] ?? 0);
}

/**
 * Asks a person at a terminal.
 *
 * @param question what is to be done
 * @throws UsageError unless the answer is yes
 */
export async function confirm(question: string): Promise<void> {
  if (!process.stdin.isTTY)
    throw new UsageError('Nothing was done: nobody can be asked here. Add --yes where it is meant.');
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await terminal.question(`${question} Type yes: `);
  terminal.close();
  if (answer.trim() !== 'yes') throw new UsageError('Nothing was done.');
}
