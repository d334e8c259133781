import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import type { UploadedChatImageDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import { StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { StoredImageVerifier } from '../../src/upkeep/stored-image-verifier.js';
import type { Sweep } from '../../src/upkeep/upload-sweeper.service.js';
import { eventually } from '../support/eventually.js';
import { APPOINTMENT, DOCTOR, PATIENT } from '../support/test-app.js';
import { expectFailure, newPicture, sha256, TwoInstances } from '../support/two-instances.js';

let instances: TwoInstances;

beforeAll(async () => {
  instances = await TwoInstances.start('database', {});
});

afterEach(() => instances.endFault());

afterAll(() => instances.stop());

describe('the sweeper', () => {
  // The tests count the deletions of a sweep.
  beforeEach(() => instances.expectTidyAfterSweep());

  /** Leaves what an instance leaves that is killed between its claim and its last statement. */
  async function leaveBehind(withObjects: boolean): Promise<string> {
    const path = `chat_images/appointment_${APPOINTMENT}/${randomUUID()}.png`;
    await instances.healthy.database.query(
      `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, state, sha256_stored)
       VALUES ($1, $2, $3, $4, 3, 'image/png', 'pending', $5)`,
      [APPOINTMENT, path, path.split('/').at(-1), PATIENT, sha256(Buffer.from('abc'))],
    );
    if (withObjects)
      for (const key of [path, thumbnailKey(path, 'image/png')])
        await instances.storage.put(key, [Buffer.from('abc')], { contentType: 'image/png' });
    return path;
  }

  it('does not touch an upload that may still be running', async () => {
    await instances.healthy.database.query(
      `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, state, created_at)
       VALUES ($1, 'p', 'p', $2, 3, 'image/png', 'pending', now() + interval '1 minute')`,
      [APPOINTMENT, PATIENT],
    );
    expect((await instances.sweep()).uploads).toBe(0);
    expect((await instances.rows()).filter(({ file_path }) => file_path === 'p')).toHaveLength(1);
    await instances.expectTidyAfterSweep();
  });

  it('deletes the row and the object that a crash has left', async () => {
    const paths = [await leaveBehind(true), await leaveBehind(false)];
    await instances.letGraceTimePass();
    // An unfinished upload may have written a picture and a thumbnail.
    expect(await instances.sweep()).toEqual({ uploads: 2, objects: 4, failures: 0 });
    const left = [...(await instances.rows()).map(({ file_path }) => file_path)];
    expect(left.filter((path) => paths.includes(path))).toEqual([]);
    for (const path of paths) await expectGone(path);
  });

  it('deletes each upload once when several instances sweep concurrently', async () => {
    const paths = await Promise.all(Array.from({ length: 6 }, () => leaveBehind(true)));
    await instances.letGraceTimePass();
    const sweeps = await Promise.all([
      instances.sweep(),
      instances.sweep(instances.faulty),
      instances.sweep(),
      instances.sweep(instances.faulty),
    ]);
    const sum = (of: keyof Sweep): number => sweeps.reduce((total, sweep) => total + sweep[of], 0);
    expect([sum('uploads'), sum('objects'), sum('failures')]).toEqual([6, 12, 0]);
    for (const path of paths) await expectGone(path);
  });

  it.each(['DELETE FROM chat_images', 'UPDATE chat_image_tombstones', 'DELETE FROM chat_image_tombstones'])(
    'completes in the next sweep when a sweep fails at %s',
    async (at) => {
      const path = await leaveBehind(true);
      await instances.letGraceTimePass();
      instances.proxy.fail({ how: 'cut after', at });
      await expect(instances.sweep(instances.faulty)).rejects.toThrow();
      instances.proxy.pass();
      await eventually(async () => {
        await instances.letGraceTimePass();
        await instances.sweep();
        return (await tombstonesOf(path)) === 0;
      });
      await expectGone(path);
    },
  );

  async function expectGone(path: string): Promise<void> {
    for (const key of [path, thumbnailKey(path, 'image/png')])
      expect([key, await instances.storage.head(key)]).toEqual([key, undefined]);
  }

  const tombstonesOf = async (path: string): Promise<number> => {
    const { database } = instances.healthy;
    const found = await database.query<unknown[]>(
      'SELECT FROM chat_image_tombstones WHERE object_key = ANY($1)',
      [[path, thumbnailKey(path, 'image/png')]],
    );
    return found.length;
  };

  it('deletes a running upload whose lease has ended, and a retry works', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
    const upload = instances.upload(bytes);
    await eventually(() => instances.proxy.hits > 0);
    await instances.sweepUnderWay(bytes);
    instances.proxy.pass();
    expectFailure(await upload, 503, 'OVERLOADED');
    expect(await instances.rowsOf(bytes)).toEqual([]);
    await instances.expectReadable(await instances.upload(bytes));
  });
});

describe('reconcile', () => {
  it('reports an object without a row, and does not delete it', async () => {
    const key = `chat_images/appointment_${APPOINTMENT}/1700000000_orphan0000.png`;
    await instances.storage.put(key, [Buffer.from('orphan')], { contentType: 'image/png' });
    // An object younger than the grace time may belong to a running upload.
    await eventually(async () => (await instances.unknownKeys()).includes(key));
    expect(await instances.storage.head(key)).toBeDefined();
    await instances.storage.delete(key);
  });

  it('reports no objects of a deleted appointment, which the sweeper deletes', async () => {
    await instances.expectTidyAfterSweep();
    const appointment = 147;
    const { database } = instances.healthy;
    await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
      appointment,
      PATIENT,
      DOCTOR,
    ]);
    const bytes = await newPicture();
    const { file_path } = await instances.expectReadable(await instances.upload(bytes, { appointment }));
    await database.query('DELETE FROM appointments WHERE id = $1', [appointment]);
    expect(await instances.rowsOf(bytes)).toEqual([]);
    expect(await instances.unknownKeys()).toEqual([]);
    expect((await instances.sweep()).objects).toBe(2);
    expect(await instances.storage.head(file_path)).toBeUndefined();
  });

  it('and the verifier report images with a missing or changed object', async () => {
    const images: UploadedChatImageDto[] = [];
    while (images.length < 4) {
      images.push(await instances.expectReadable(await instances.upload(await newPicture())));
    }
    const [intact, gone, shorter, changed] = images.map(({ id, file_path }) => ({
      id,
      filePath: file_path,
    }));
    if (!intact || !gone || !shorter || !changed) throw new Error('Four were uploaded.');
    const contentType = 'image/png';
    await instances.storage.delete(gone.filePath);
    await instances.storage.put(shorter.filePath, [Buffer.from('abc')], { contentType });
    const bytes = await buffer(await instances.storage.get(changed.filePath));
    bytes.writeUInt8(bytes.readUInt8(1000) ^ 1, 1000);
    await instances.storage.put(changed.filePath, [bytes], { contentType });
    try {
      expect((await instances.compare()).missing).toEqual({
        count: 2,
        first: [
          { ...gone, found: 'nothing' },
          { ...shorter, found: '3 bytes' },
        ],
      });
      const { counts, damaged } = await instances.healthy.app.get(StoredImageVerifier).verify(undefined);
      expect([...damaged].sort((a, b) => a.id - b.id)).toEqual([
        { ...gone, verdict: 'missing' },
        { ...shorter, verdict: 'changed' },
        { ...changed, verdict: 'changed' },
      ]);
      expect(counts).toMatchObject({ missing: 1, changed: 2 });
      expect(counts.intact).toBeGreaterThan(0);
    } finally {
      for (const { id, filePath } of [gone, shorter, changed]) {
        await instances.healthy.database.query('DELETE FROM chat_images WHERE id = $1', [id]);
        await instances.storage.delete(filePath);
        await instances.storage.delete(thumbnailKey(filePath, contentType));
      }
    }
  });

  it('works again after a lost connection', async () => {
    const before = await instances.objects();
    for (const at of ['SELECT count(*)', 'WITH listed AS']) {
      instances.proxy.fail({ how: 'cut before', at });
      const reconciler = instances.faulty.get(StorageReconciler);
      await expect(reconciler.compare()).rejects.toThrow();
      instances.proxy.pass();
      expect((await reconciler.compare()).objects).toBe(before.size);
    }
    expect(await instances.objects()).toEqual(before);
  });
});
