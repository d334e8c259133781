import {
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  ListObjectsV2Command,
  S3Client,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import type { Fault } from '../support/cutting-proxy.js';
import { eventually } from '../support/eventually.js';
import { s3Environment } from '../support/s3-environment.js';
import { DOCTOR, PATIENT } from '../support/test-app.js';
import { expectFailure, newPicture, TwoInstances } from '../support/two-instances.js';
import { describeFault } from './upload-fault.js';

describe('uploads, when the storage fails', () => {
  const environment = s3Environment();
  if (!environment) {
    it.skip('leave nothing behind and can be retried (skipped without S3_ENDPOINT)', () => undefined);
    return;
  }
  // The tests have their own bucket, as they list all of its objects.
  const bucket = `upload-faults-${randomUUID()}`;
  const s3 = new S3Client({
    endpoint: environment.DO_SPACES_ENDPOINT ?? '',
    region: environment.DO_SPACES_REGION ?? '',
    credentials: {
      accessKeyId: environment.DO_SPACES_KEY ?? '',
      secretAccessKey: environment.DO_SPACES_SECRET ?? '',
    },
    forcePathStyle: true,
  });
  let instances: TwoInstances;

  beforeAll(async () => {
    await s3.send(new CreateBucketCommand({ Bucket: bucket }));
    instances = await TwoInstances.start('storage', {
      ...environment,
      DO_SPACES_BUCKET: bucket,
      DO_SPACES_URL: `${environment.DO_SPACES_ENDPOINT ?? ''}/${bucket}`,
    });
  });

  afterEach(() => instances.endFault());

  afterAll(async () => {
    await instances.stop();
    const { Contents: objects } = await s3.send(new ListObjectsV2Command({ Bucket: bucket }));
    for (const { Key } of objects ?? []) await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
    await s3.send(new DeleteBucketCommand({ Bucket: bucket }));
    s3.destroy();
  });

  describe.each<[how: string, fault: Fault]>([
    ['by refusing connections', { how: 'refuse' }],
    ['by a cut before the put', { how: 'cut before' }],
    ['by a cut during the put', { how: 'cut within', at: 'PUT /', bytes: 10_000 }],
    ['by a cut during every request', { how: 'cut within', bytes: 100 }],
    ['by a cut after the put and before its response', { how: 'cut after', at: 'PUT /' }],
    ['by a cut before every response', { how: 'cut after' }],
    ['by a 500 response to the put', { how: 'answer 500', at: 'PUT /' }],
    ['by a 500 response to every request', { how: 'answer 500' }],
    ['by responses after the timeout', { how: 'delay answers', ms: 1000 }],
    ['by no response at all', { how: 'hold' }],
  ])('%s', (_how, fault) => {
    describeFault(() => instances, fault, { code: 'STORAGE_UNAVAILABLE' });
  });

  it.each<[when: string, fault: Fault]>([
    ['before the put has arrived', { how: 'hold', at: 'PUT /' }],
    ['after the put, before its response', { how: 'hold answers', at: 'PUT /' }],
  ])('survive a sweep during a slow put, %s, and a retry works', async (when, fault) => {
    const bytes = await newPicture();
    instances.proxy.fail(fault);
    const upload = instances.upload(bytes);
    const row = await eventually(async () => (await instances.rowsOf(bytes))[0]);
    // Only stored images exist for readers.
    const signedUrl = `/api/chat-images/${row.id}/signed-url`;
    expect((await instances.healthy.fetch(signedUrl, { as: DOCTOR })).status).toBe(404);
    if (when.startsWith('after')) await eventually(() => instances.storage.head(row.file_path));
    await instances.sweepUnderWay(bytes);
    instances.proxy.pass();
    const answer = await upload;
    if (answer.status === 200) await instances.expectReadable(answer);
    else expect(answer.status).toBe(503);
    await instances.expectTidyAfterSweep();
    await instances.expectReadable(await instances.upload(bytes));
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('leave a tombstone when a sweep can not delete, and a later sweep deletes', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'cut after' });
    expectFailure(await instances.upload(bytes), 503, 'STORAGE_UNAVAILABLE');
    await instances.letGraceTimePass();
    instances.proxy.fail({ how: 'answer 500' });
    const failed = await instances.sweep(instances.faulty);
    expect([failed.uploads, failed.objects]).toEqual([1, 0]);
    expect(failed.failures).toBeGreaterThan(0);
    instances.proxy.pass();
    await instances.letGraceTimePass();
    expect(await instances.sweep(instances.faulty)).toEqual({
      uploads: 0,
      objects: failed.failures,
      failures: 0,
    });
    await instances.expectTidyAfterSweep();
  });

  it('leave nothing when the appointment is deleted during a slow put', async () => {
    const appointment = 148;
    const { database } = instances.healthy;
    await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
      appointment,
      PATIENT,
      DOCTOR,
    ]);
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold answers', at: 'PUT /' });
    const upload = instances.upload(bytes, { appointment });
    const row = await eventually(async () => (await instances.rowsOf(bytes))[0]);
    await eventually(() => instances.storage.head(row.file_path));
    await database.query('DELETE FROM appointments WHERE id = $1', [appointment]);
    instances.proxy.pass();
    expectFailure(await upload, 404, 'APPOINTMENT_NOT_FOUND');
    await instances.letGraceTimePass();
    await instances.sweep();
    expect(await instances.storage.head(row.file_path)).toBeUndefined();
  });

  /** A held put may arrive before, during or after a sweep, so the tombstone stays until then. */
  async function untilTidy(): Promise<void> {
    // The test shifts the time of the tombstone, which must not happen before the put has ended.
    await eventually(() => instances.proxy.underWay === 0);
    await eventually(async () => {
      await instances.letGraceTimePass();
      await instances.sweep();
      // A picture and its thumbnail for each row.
      return 2 * (await instances.rows()).length === (await instances.objects()).size;
    });
    await instances.expectTidyAfterSweep();
  }

  it('of five concurrent copies store one image when the first copy fails', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'PUT /' });
    const first = instances.upload(bytes);
    await eventually(() => instances.proxy.hits > 0);
    const copies = [1, 2, 3, 4].map(() => instances.upload(bytes, { to: instances.healthy.url }));
    expectFailure(await first, 503, 'STORAGE_UNAVAILABLE');
    const answers = await Promise.all(copies);
    for (const answer of answers) await instances.expectReadable(answer);
    expect(new Set(answers.map(({ data }) => data?.id)).size).toBe(1);
    instances.proxy.pass();
    await untilTidy();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('leave nothing after a sweep when a put arrives after its timeout', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'PUT /' });
    expectFailure(await instances.upload(bytes), 503, 'STORAGE_UNAVAILABLE');
    const before = (await instances.objects()).size;
    instances.proxy.pass();
    // The object is put twice, as the storage retries.
    await eventually(async () => (await instances.objects()).size > before);
    await untilTidy();
  });
});
