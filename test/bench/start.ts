/*
 * npm run bench:start: the time from the start of the built server to its first response.
 */
import { once } from 'node:events';
import { Bench, median } from './service-under-test.js';

const ROUNDS = 7;

const bench = await Bench.open();
try {
  const milliseconds: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const started = performance.now();
    const server = await bench.start('this service', 'dist/main.js');
    const { status } = await fetch(`http://127.0.0.1:${server.port}/api/health/ready`);
    if (status !== 200) throw new Error(`The first answer was ${status}.`);
    milliseconds.push(performance.now() - started);
    server.process.kill('SIGTERM');
    await once(server.process, 'exit');
  }
  console.log(`start to first answer: median ${median(milliseconds).toFixed(0)} ms of ${ROUNDS} starts`);
} finally {
  await bench.close();
}
process.exit(0);
