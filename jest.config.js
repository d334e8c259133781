process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true';

/** @type {import('jest').Config} */
export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/src', '<rootDir>/test', '<rootDir>/client'],
  testRegex: '\\.(e2e-)?spec\\.ts$',
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: {
    '^(\\.{1,2}/.*)\\.js$': '$1',
  },
  // The chaos test takes minutes: `npm run test:s3` runs it.
  testPathIgnorePatterns: ['/node_modules/', ...(process.env.CHAOS ? [] : ['/test/faults/chaos\\.'])],
  transform: { '\\.ts$': ['ts-jest', { useESM: true, diagnostics: false }] },
  maxWorkers: 2,
  testSequencer: '<rootDir>/test/support/longest-first.js',
  // A busy machine needs longer than Jest's 500 ms to free the memory of a worker that has nothing left to do. A worker that
  // is ended by force all the same has a handle that a suite has left open.
  workerGracefulExitTimeout: 15_000,
  // For what hangs. On a busy machine, starting PostgreSQL and the application several times takes a minute.
  testTimeout: 120_000,
};
