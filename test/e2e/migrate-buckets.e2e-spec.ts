import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { basename, dirname } from 'node:path';
import { newFilename, thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import { ImportTools } from '../support/import-tools.js';
import { phonePhoto, picture } from '../support/pictures.js';
import { s3Environment } from '../support/s3-environment.js';
import { APPOINTMENT, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';
import { statusOf, TestBucket } from '../support/test-bucket.js';

(s3Environment() ? describe : describe.skip)('the import of old pictures from a bucket', () => {
  let test: TestApp;
  /** The bucket of the service. */
  let target: TestBucket;
  let tools: ImportTools;
  const sources: TestBucket[] = [];

  beforeAll(async () => {
    test = await TestApp.start();
  });

  afterAll(() => test.stop());

  beforeEach(() => useTarget(false));

  afterEach(async () => {
    await tools.close();
    for (const bucket of [target, ...sources.splice(0)]) await bucket.remove();
  });

  async function useTarget(versioned: boolean): Promise<void> {
    target = await TestBucket.make(versioned);
    tools = await ImportTools.start({
      ...TEST_ENVIRONMENT,
      DATABASE_URL: test.settings.database.url,
      ...target.environment,
    });
  }

  async function useVersionedTarget(): Promise<void> {
    await tools.close();
    await target.remove();
    await useTarget(true);
  }

  async function makeSource(versioned = false): Promise<TestBucket> {
    const bucket = await TestBucket.make(versioned);
    sources.push(bucket);
    return bucket;
  }

  const newPath = (): string =>
    `chat_images/appointment_${APPOINTMENT}/${newFilename(new Date('2025-11-05T21:50:01Z'), 'jpg')}`;

  /** The status that anybody gets for an object, or for an old version of it. */
  const openStatus = (bucket: TestBucket, key: string, version?: string): Promise<number> =>
    statusOf(
      `${bucket.urlOf(key)}${version === undefined ? '' : `?versionId=${encodeURIComponent(version)}`}`,
    );

  const outcomesOf = (lines: readonly { readonly outcome: string }[]): readonly string[] =>
    lines.map(({ outcome }) => outcome);

  it('copies from another bucket, below a prefix, and leaves everything there as it is', async () => {
    const source = await makeSource();
    const [path, photo] = [newPath(), await phonePhoto()];
    await source.put(`old/${path}`, photo, 'image/jpeg', true);
    await source.put('old/profile_pictures/1.jpg', photo, 'image/jpeg', true);
    const folder = dirname(path);
    const foreign = `${folder}/thumbs/1600000000_OldPicture.jpg`;
    for (const key of [thumbnailKey(path, 'image/jpeg'), foreign])
      await source.put(`old/${key}`, photo, 'image/jpeg', true);
    await source.put(path, await picture('png'), 'image/png', true);
    const before = await source.snapshot();
    const from = `s3://${source.name}/old`;
    expect(await tools.migrate(from)).toEqual([
      { file: 'profile_pictures/', outcome: 'unknown', reason: 'folder of something else' },
      // A thumbnail of this service is neither a picture nor unknown. What only looks like one is reported.
      { file: foreign, outcome: 'unknown', reason: 'folder of no conversation' },
      { file: path, outcome: 'stored', as: 'cleaned' },
    ]);
    expect(await source.snapshot()).toEqual(before);
    expect(await openStatus(target, path)).toBe(403);
    expect((await target.read(path))?.includes('Exif')).toBe(false);
    expect(outcomesOf(await tools.verify(from))).toEqual(['the same in both']);
  });

  it('closes the old objects of another bucket, then deletes them, and opens them again', async () => {
    const source = await makeSource();
    const path = newPath();
    await source.put(path, await picture('jpeg'), 'image/jpeg', true);
    const from = `s3://${source.name}`;
    await tools.migrate(from);
    expect(await openStatus(source, path)).toBe(200);
    expect(outcomesOf(await tools.deleteSource(from, { makePrivate: true }))).toEqual(['closed']);
    expect(await openStatus(source, path)).toBe(403);
    expect(outcomesOf(await tools.rollback(from, true))).toEqual(['put back']);
    expect(await openStatus(source, path)).toBe(200);
    await tools.migrate(from);
    await tools.deleteSource(from, { makePrivate: true });
    expect(outcomesOf(await tools.deleteSource(from))).toEqual(['deleted']);
    expect(await source.keys()).toEqual([]);
    expect(outcomesOf(await tools.verify(from))).toEqual(['only here: the source is deleted']);
    expect(outcomesOf(await tools.rollback(from))).toEqual(['put back']);
    expect(await openStatus(source, path)).toBe(403);
  });

  it('deletes the version that was imported, where another bucket keeps versions', async () => {
    const source = await makeSource(true);
    const path = newPath();
    await source.put(path, await picture('jpeg'), 'image/jpeg', true);
    const from = `s3://${source.name}`;
    await tools.migrate(from);
    expect(outcomesOf(await tools.deleteSource(from))).toEqual(['deleted']);
    expect(await source.versions(path)).toEqual([]);
  });

  it('reports a picture without its appointment, and stops at a bucket that is not there', async () => {
    const source = await makeSource();
    await source.put(
      'chat_images/appointment_999/1762379401_YoxmX4UUfE.jpg',
      await picture('jpeg'),
      'image/jpeg',
      true,
    );
    const [line] = await tools.migrate(`s3://${source.name}`);
    expect(line).toMatchObject({ outcome: 'failed', reason: 'There is no appointment 999.' });
    await expect(tools.migrate('s3://no-such-bucket-of-anybody')).rejects.toThrow(
      'can not be read (NoSuchBucket)',
    );
  });

  describe('in place', () => {
    it('refuses to lose the original bytes where nothing keeps them', async () => {
      const path = newPath();
      await target.put(path, await picture('jpeg'), 'image/jpeg', true);
      await expect(tools.migrate(`s3://${target.name}`)).rejects.toThrow('the bucket keeps no versions');
      expect(await openStatus(target, path)).toBe(200);
    });

    it('closes the public version too, where the bucket keeps versions, and gets back to it', async () => {
      await useVersionedTarget();
      const [path, photo] = [newPath(), await phonePhoto()];
      await target.put(path, photo, 'image/jpeg', true);
      const [version = ''] = await target.versions(path);
      const thumbnail = thumbnailKey(path, 'image/jpeg');
      await target.put(thumbnail, photo, 'image/jpeg', false);
      const from = `s3://${target.name}`;
      expect(outcomesOf(await tools.migrate(from))).toEqual(['stored']);
      expect((await target.read(thumbnail))?.equals(photo)).toBe(true);
      expect([await openStatus(target, path), await openStatus(target, path, version)]).toEqual([403, 403]);
      expect((await target.read(path))?.equals(photo)).toBe(false);
      expect(outcomesOf(await tools.verify(from))).toEqual(['the same in both']);
      await expect(tools.rollback(from)).rejects.toThrow('add --public');
      expect(outcomesOf(await tools.rollback(from, true))).toEqual(['put back']);
      expect(await openStatus(target, path)).toBe(200);
      expect((await target.read(path))?.equals(photo)).toBe(true);
      expect(outcomesOf(await tools.migrate(from))).toEqual(['stored']);
      for (const each of await target.versions(path)) expect(await openStatus(target, path, each)).toBe(403);
    });

    it('deletes the kept original, never the private picture', async () => {
      const [path, photo] = [newPath(), await phonePhoto()];
      await target.put(path, photo, 'image/jpeg', true);
      const from = `s3://${target.name}`;
      await tools.migrate(from, { keepOriginalUnder: 'originals' });
      expect((await target.read(`originals/${path}`))?.equals(photo)).toBe(true);
      expect(await openStatus(target, `originals/${path}`)).toBe(403);
      expect(outcomesOf(await tools.deleteSource(from))).toEqual(['deleted']);
      expect(await target.keys()).toEqual([path]);
    });

    it('has nothing to delete where the bytes are kept', async () => {
      const path = newPath();
      await target.put(path, await picture('jpeg'), 'image/jpeg', true);
      const from = `s3://${target.name}`;
      await tools.migrate(from, { keepBytes: true });
      expect(outcomesOf(await tools.deleteSource(from))).toEqual(['nothing was kept']);
      expect([await target.keys(), await openStatus(target, path)]).toEqual([[path], 403]);
    });

    it("leaves this service's own objects out, of images and of deleted ones", async () => {
      const [own, deleted] = [newPath(), newPath()];
      for (const path of [own, deleted]) await target.put(path, await picture('jpeg'), 'image/jpeg', false);
      await test.database.query(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, sha256_stored)
         VALUES ($1, $2, $3, $4, 1, 'image/jpeg', repeat('0', 64))`,
        [APPOINTMENT, own, basename(own), PATIENT],
      );
      await test.database.query(
        'INSERT INTO chat_image_tombstones (object_key, settled_at) VALUES ($1, now())',
        [deleted],
      );
      const before = await target.snapshot();
      expect(await tools.migrate(`s3://${target.name}`, { keepBytes: true })).toEqual([]);
      expect(await target.snapshot()).toEqual(before);
    });
  });
});
