/*
 * npm run chaos -- --minutes N --seed S: a longer run of faults than in CI. Prints each fault and the books.
 * Exits with 1 when the books do not balance. Uses the S3 server of S3_ENDPOINT when it is set,
 * else the local disk.
 */
import { parseArgs } from 'node:util';
import { runChaos } from './chaos.js';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '2' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
  console.error('Usage: npm run chaos -- --minutes 10 --seed 1');
  process.exit(1);
}

const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => interruption.abort(new Error('The run was ended.')));

console.log(`seed ${seed}, ${minutes} minutes`);
try {
  const { storage, counts, findings } = await runChaos({
    seed,
    minutes,
    onEvent: (line) => console.log(line),
    signal: interruption.signal,
  });
  console.table(counts);
  for (const finding of findings) console.log(`FINDING: ${finding}`);
  console.log(
    findings.length === 0
      ? `The books balance (${storage}, seed ${seed}).`
      : `The books do not balance: ${findings.length} findings (${storage}, seed ${seed}).`,
  );
  process.exit(findings.length === 0 ? 0 : 1);
} catch (error) {
  if (interruption.signal.aborted) {
    console.log('Ended before its time; everything is stopped.');
    process.exit(130);
  }
  console.error(error instanceof Error ? (error.stack ?? error.message) : error);
  process.exit(1);
}
