import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { s3Environment } from '../support/s3-environment.js';
import {
  closeStorages,
  endServices,
  expectRefusedStart,
  failureOf,
  ping,
  put,
  storageOf,
} from '../support/storage-mistakes.js';
import { TestApp } from '../support/test-app.js';

/** Mistakes that a real server can detect, with the failure and the printed line. */
const REAL_MISTAKES: readonly [what: string, over: NodeJS.ProcessEnv, failure: string, line: RegExp][] = [
  ['the key', { DO_SPACES_KEY: 'no-such-key' }, 'wrong-key', /^DO_SPACES_KEY /m],
  ['the secret', { DO_SPACES_SECRET: 'not-the-secret' }, 'wrong-secret', /^DO_SPACES_SECRET /m],
  [
    'the bucket',
    { DO_SPACES_BUCKET: 'no-such-bucket-here', DO_SPACES_URL: 'http://localhost/no-such-bucket-here' },
    'no-such-bucket',
    /^DO_SPACES_BUCKET /m,
  ],
];

const s3 = s3Environment();

(s3 ? describe : describe.skip)('a real S3 server (skipped without S3_ENDPOINT)', () => {
  /** The tests use only its database. */
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start();
  });

  afterEach(async () => {
    closeStorages();
    await endServices();
  });

  afterAll(() => test.stop());

  it.each(REAL_MISTAKES)('shows to a ping and a put that %s is wrong', async (_what, over, failure) => {
    const storage = storageOf({ ...s3, ...over });
    expect([await failureOf(ping(storage)), await failureOf(put(storage))]).toEqual([failure, failure]);
  });

  it.each(REAL_MISTAKES)(
    'lets npm start exit with a line that names the variable when %s is wrong',
    async (_what, over, _failure, line) => {
      await expectRefusedStart(test, { ...s3, ...over }, line);
    },
  );

  it('keeps objects private with DO_SPACES_OBJECT_ACL=none', async () => {
    const storage = storageOf({ ...s3, DO_SPACES_OBJECT_ACL: 'none' });
    await put(storage);
    const { url } = await storage.signedUrl('chat_images/a.png', 60, new Date());
    expect((await fetch(url)).status).toBe(200);
    expect((await fetch(url.slice(0, url.indexOf('?')))).status).toBe(403);
    await storage.delete('chat_images/a.png');
  });
});
