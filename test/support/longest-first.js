import TestSequencer from '@jest/test-sequencer';

/** The suites that take minutes. Jest guesses by the size of the file, and they would run last, beside an idle worker. */
const LONGEST =
  /\/test\/(faults\/(chaos|rehearsal|upload-leases|shutdown)|pictures\/pictures|e2e\/(commands|migrate-rewrite-urls))\./;

/** The order of the suites when no earlier run has told how long they take. */
export default class LongestFirst extends TestSequencer {
  sort(tests) {
    const sorted = super.sort(tests);
    const isLong = ({ path }) => LONGEST.test(path);
    return [...sorted.filter(isLong), ...sorted.filter((test) => !isLong(test))];
  }
}
