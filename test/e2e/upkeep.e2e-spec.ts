import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { NestFactory } from '@nestjs/core';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DataSource } from 'typeorm';
import { AppModule } from '../../src/app.module.js';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { UpkeepSchedule } from '../../src/upkeep/upkeep-schedule.js';
import { type Sweep, UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { loadDatabaseSettings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { createLogger } from '../../src/observability/logger.js';
import { picture } from '../support/pictures.js';
import { refusal, S3Answers } from '../support/s3-answers.js';
import { APPOINTMENT, DOCTOR, PATIENT, TestApp } from '../support/test-app.js';

/** Objects of the old system and of others in the same folder. */
const OTHERS = [
  'chat_images/appointment_145/1600000000_OldPicture.jpg',
  'chat_images/appointment_145/1600000000_OldPictur2.JPG',
  'chat_images/appointment_145/1600000000_OldPictur3',
  'chat_images/text_session_9/1600000000_OldPictur4.jpeg',
  'chat_images/appointment_145/thumbs/1600000000_OldPicture.jpg',
  'chat_images/voice/1600000000.m4a',
];

describe('upkeep', () => {
  let test: TestApp;
  let storage: StorageProvider;
  let sweeper: UploadSweeper;

  beforeAll(async () => {
    test = await TestApp.start({ UPLOAD_GRACE_SECONDS: '1', SWEEP_INTERVAL_SECONDS: '0' });
    storage = test.app.get(StorageProvider);
    sweeper = test.app.get(UploadSweeper);
  });

  afterAll(() => test.stop());

  afterEach(async () => {
    jest.restoreAllMocks();
    await test.database.query('DELETE FROM chat_images');
    await settle();
    await sweeper.sweep();
    expect(await tombstones()).toEqual([]);
  });

  async function upload(appointment = APPOINTMENT): Promise<UploadedChatImageDto> {
    const response = await test.upload(await picture('png'), { appointment: String(appointment) });
    return ((await response.json()) as UploadedChatImageResponseDto).data;
  }

  const tombstones = async (): Promise<string[]> =>
    (
      await test.database.query<{ object_key: string }[]>(
        'SELECT object_key FROM chat_image_tombstones ORDER BY 1',
      )
    ).map(({ object_key: key }) => key);

  /** The keys of the images' objects, in order. */
  const keysOf = (...images: readonly UploadedChatImageDto[]): string[] =>
    images.flatMap(({ file_path: path, mime_type: type }) => [path, thumbnailKey(path, type)]).sort();

  const isThere = async (key: string): Promise<boolean> => (await storage.head(key)) !== undefined;

  /** Sets the time at which no late write can arrive any more to now. */
  const settle = (): Promise<unknown> =>
    test.database.query(`UPDATE chat_image_tombstones SET settled_at = now(), next_attempt_at = now()`);

  describe('the tombstone of a deleted row', () => {
    it('is written on DELETE, not on ROLLBACK, and the sweeper deletes its object', async () => {
      const image = await upload();
      const { id } = image;
      const session = test.database.createQueryRunner();
      await session.startTransaction();
      await session.query('DELETE FROM chat_images WHERE id = $1', [id]);
      await session.rollbackTransaction();
      await session.release();
      expect(await tombstones()).toEqual([]);
      await test.database.query('DELETE FROM chat_images WHERE id = $1', [id]);
      expect(await tombstones()).toEqual(keysOf(image));
      expect(await Promise.all(keysOf(image).map(isThere))).toEqual([true, true]);
      expect(await sweeper.sweep()).toEqual({ uploads: 0, objects: 2, failures: 0 });
      expect(await Promise.all(keysOf(image).map(isThere))).toEqual([false, false]);
    });

    it('is written when the main application deletes the appointment or the user', async () => {
      await test.database.query(`
        CREATE ROLE the_main_application LOGIN PASSWORD 'secret';
        GRANT SELECT, DELETE ON users, appointments, chat_images TO the_main_application;
        INSERT INTO users (id) VALUES (20), (21);
        INSERT INTO appointments (id, patient_id, doctor_id) VALUES (150, ${PATIENT}, ${DOCTOR}), (151, 20, 21);
      `);
      const ofAppointment = await upload(150);
      const own = await test.upload(await picture('png'), { appointment: '151', as: 20 });
      const ofUser = ((await own.json()) as UploadedChatImageResponseDto).data;
      const kept = await upload();
      const url = new URL(test.settings.database.url);
      url.username = 'the_main_application';
      url.password = 'secret';
      const main = await new DataSource(
        dataSourceOptions(loadDatabaseSettings({ DATABASE_URL: url.href }), ENTITIES),
      ).initialize();
      await main.query('DELETE FROM appointments WHERE id = 150');
      await main.query('DELETE FROM users WHERE id = 20');
      await main.destroy();
      expect(await tombstones()).toEqual(keysOf(ofAppointment, ofUser));
      expect((await sweeper.sweep()).objects).toBe(4);
      const left = await Promise.all(
        [ofAppointment, ofUser, kept].map(({ file_path: path }) => isThere(path)),
      );
      expect(left).toEqual([false, false, true]);
    });

    it('is written on TRUNCATE', async () => {
      const images = [await upload(), await upload()];
      await test.database.query('TRUNCATE chat_images CASCADE');
      expect(await tombstones()).toEqual(keysOf(...images));
    });

    it('is not written for a path that this service has not made', async () => {
      const [other = ''] = OTHERS;
      await storage.put(other, [Buffer.from('x')], { contentType: 'image/jpeg' });
      const insert = `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type)
        VALUES (${APPOINTMENT}, $1, $2, ${PATIENT}, 1, 'image/jpeg')`;
      await test.database.query(insert, [other, 'theirs.jpg']);
      await test.database.query(`DELETE FROM chat_images WHERE filename = 'theirs.jpg'`);
      expect(await tombstones()).toEqual([]);

      const changed = await upload();
      await test.database.query('UPDATE chat_images SET file_path = $2 WHERE id = $1', [changed.id, other]);
      await test.database.query('DELETE FROM chat_images');
      // Only this service writes thumbnails.
      const [, thumbnail = ''] = keysOf(changed);
      expect(await tombstones()).toEqual([thumbnail]);
      await sweeper.sweep();
      expect([await isThere(other), await isThere(changed.file_path)]).toEqual([true, true]);
      expect(await isThere(thumbnail)).toBe(false);
      await storage.delete(other);
      await storage.delete(changed.file_path);
    });

    it('keeps its object while another row names the object', async () => {
      const image = await upload();
      const { id, file_path: path } = image;
      await test.database.query('DELETE FROM chat_images WHERE id = $1', [id]);
      await test.database.query(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type)
         VALUES (${APPOINTMENT}, $1, 'forwarded.jpg', ${PATIENT}, 1, 'image/jpeg')`,
        [path],
      );
      // That row has no thumbnail.
      expect(await sweeper.sweep()).toEqual({ uploads: 0, objects: 1, failures: 0 });
      expect([await tombstones(), await isThere(path)]).toEqual([keysOf(image), true]);
      await test.database.query('DELETE FROM chat_images');
      await settle();
      expect((await sweeper.sweep()).objects).toBe(2);
      expect(await isThere(path)).toBe(false);
    });

    it('stays until no late write can bring its object back', async () => {
      const image = await upload();
      const keys = keysOf(image);
      await test.database.query('DELETE FROM chat_images WHERE id = $1', [image.id]);
      await sweeper.sweep();
      const areThere = (): Promise<boolean[]> => Promise.all(keys.map(isThere));
      expect([await areThere(), await tombstones()]).toEqual([[false, false], keys]);
      // Late writes store the objects again.
      for (const key of keys) await storage.put(key, [Buffer.from('late')], { contentType: 'image/png' });
      expect((await sweeper.sweep()).objects).toBe(0);
      await settle();
      expect((await sweeper.sweep()).objects).toBe(2);
      expect([await areThere(), await tombstones()]).toEqual([[false, false], []]);
    });

    it('is retried with growing pauses when deletion fails, and delays no other tombstone', async () => {
      const [stuck, other] = [await upload(), await upload()];
      if (test.settings.storage.driver !== 'local') throw new Error('This suite runs on the local storage.');
      const file = join(test.settings.storage.directory, 'objects', stuck.file_path);
      await rm(file);
      // A folder at the path of the file makes the deletion fail.
      await mkdir(join(file, 'x'), { recursive: true });
      await test.database.query('DELETE FROM chat_images');
      await settle();
      const pauses: number[] = [];
      for (let round = 0; round < 4; round += 1) {
        const { failures } = await sweeper.sweep();
        expect(failures).toBe(1);
        const [row] = await test.database.query<{ attempts: number; pause: number }[]>(
          `SELECT attempts, round(extract(epoch FROM next_attempt_at - now()))::int AS pause FROM chat_image_tombstones`,
        );
        expect(row?.attempts).toBe(round + 1);
        pauses.push(row?.pause ?? 0);
        // The sweeper does not retry before the pause ends.
        expect(await sweeper.sweep()).toEqual({ uploads: 0, objects: 0, failures: 0 });
        await test.database.query('UPDATE chat_image_tombstones SET next_attempt_at = now()');
      }
      expect(pauses).toEqual([60, 120, 240, 480]);
      expect([await isThere(other.file_path), await tombstones()]).toEqual([false, [stuck.file_path]]);
      expect(test.logLines.filter((line) => line.includes('can not be deleted')).length).toBe(4);
      await rm(file, { recursive: true });
    });
  });

  it('counts every object that the storage refuses to delete, and deletes all others', async () => {
    const s3 = await S3Answers.start();
    const before = test.settings;
    try {
      s3.answerWith(
        refusal(
          403,
          'AccessDenied',
          ({ method, url }) => method === 'DELETE' && (url ?? '').includes('stuck'),
        ),
      );
      // A busy machine must not look like a storage that is down.
      await test.restart({ ...s3.environment, STORAGE_REQUEST_TIMEOUT_MS: '10000' });
      // These are more than one claim takes, and they are due first.
      await test.database.query(
        `INSERT INTO chat_image_tombstones (object_key, settled_at, next_attempt_at)
         SELECT 'chat_images/appointment_1/stuck' || n || '.png', now(), now() - interval '1 hour' FROM generate_series(1, 60) n
         UNION ALL
         SELECT 'chat_images/appointment_1/other' || n || '.png', now(), now() FROM generate_series(1, 5) n`,
      );
      const sweep = (): Promise<Sweep> => test.app.get(UploadSweeper).sweep();
      expect(await sweep()).toEqual({ uploads: 0, objects: 5, failures: 60 });
      expect((await tombstones()).filter((key) => key.includes('other'))).toEqual([]);
      expect(await sweep()).toEqual({ uploads: 0, objects: 0, failures: 0 });
      expect(test.logLines.filter((line) => line.includes('"storage":"access-denied"'))).toHaveLength(60);

      // A storage that is down gets the requests of only one claim.
      s3.answerWith((_, response) => response.writeHead(500).end());
      await test.database.query('UPDATE chat_image_tombstones SET next_attempt_at = now()');
      expect((await sweep()).failures).toBe(50);
      await test.database.query('UPDATE chat_image_tombstones SET next_attempt_at = now()');
      s3.answerWith();
      test.logLines.length = 0;
      const last = await sweep();
      expect(test.logLines.filter((line) => line.includes('can not be deleted'))).toEqual([]);
      expect(last).toEqual({ uploads: 0, objects: 60, failures: 0 });
    } finally {
      s3.stop();
      await test.restart({ STORAGE_DRIVER: before.storage.driver });
      storage = test.app.get(StorageProvider);
      sweeper = test.app.get(UploadSweeper);
    }
  });

  it('deletes no object of others, however often it runs', async () => {
    for (const key of OTHERS)
      await storage.put(key, [Buffer.from('somebody else')], { contentType: 'image/jpeg' });
    const { file_path: own } = await upload();
    // The comparison skips objects that are younger than the grace time.
    const reconciler = test.app.get(StorageReconciler);
    while ((await reconciler.compare()).unknown.count < OTHERS.length);
    const schedule = test.app.get(UpkeepSchedule);
    for (let day = 0; day < 3; day += 1) {
      await test.database.query(`UPDATE chat_image_upkeep_tasks SET due_at = now()`);
      await schedule.run();
    }
    const left = await Promise.all([...OTHERS, own].map(isThere));
    expect(left).toEqual([...OTHERS, own].map(() => true));
    const reports = test.logLines.filter((line) => line.includes('reconcile: the storage is compared'));
    expect(JSON.parse(reports.at(-1) ?? '{}')).toMatchObject({
      objects: 8,
      images: 1,
      thumbnails: 1,
      missing: 0,
      unknown: 6,
    });
    for (const key of OTHERS) await storage.delete(key);
  });

  describe('the comparison of storage and database', () => {
    const compare = (): jest.SpiedFunction<StorageReconciler['compare']> =>
      jest.spyOn(test.app.get(StorageReconciler), 'compare');

    const dueIn = async (): Promise<number> => {
      const [row] = await test.database.query<{ seconds: number }[]>(
        'SELECT round(extract(epoch FROM due_at - now()))::int AS seconds FROM chat_image_upkeep_tasks',
      );
      return row?.seconds ?? NaN;
    };

    it('runs once a day, also with concurrent calls and after a restart', async () => {
      await test.database.query('UPDATE chat_image_upkeep_tasks SET due_at = now()');
      const first = compare();
      await Promise.all([1, 2, 3].map(() => test.app.get(UpkeepSchedule).run()));
      expect(first).toHaveBeenCalledTimes(1);
      await test.restart({});
      storage = test.app.get(StorageProvider);
      sweeper = test.app.get(UploadSweeper);
      const second = compare();
      await test.app.get(UpkeepSchedule).run();
      expect(second).not.toHaveBeenCalled();
      await test.database.query(`UPDATE chat_image_upkeep_tasks SET due_at = due_at - interval '1 day'`);
      await test.app.get(UpkeepSchedule).run();
      expect(second).toHaveBeenCalledTimes(1);
      expect(await dueIn()).toBeGreaterThan(23 * 3600);
    });

    it('runs again in an hour when it failed', async () => {
      await test.database.query('UPDATE chat_image_upkeep_tasks SET due_at = now()');
      compare().mockRejectedValueOnce(new Error('the storage is down'));
      await test.app.get(UpkeepSchedule).run();
      expect(await dueIn()).toBeGreaterThan(3500);
      expect(await dueIn()).toBeLessThanOrEqual(3600);
    });
  });

  it('is scheduled only by the server, not by a command', async () => {
    expect(test.app.get(UpkeepSchedule)).toBeDefined();
    const context = await NestFactory.createApplicationContext(
      AppModule.with(test.settings, createLogger('silent')),
      { logger: false },
    );
    expect(() => context.get(UpkeepSchedule, { strict: false })).toThrow('could not find');
    await context.close();
  });
});
