import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { tmpdir } from 'node:os';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import {
  APPOINTMENT,
  DOCTOR,
  JWT_SECRET,
  OUTSIDER,
  PATIENT,
  TEST_ENVIRONMENT,
  TestApp,
} from '../support/test-app.js';

jest.setTimeout(120_000);

const USERS =
  'CREATE TABLE users (id bigserial PRIMARY KEY, deleted_at timestamp(0), is_active boolean DEFAULT true)';
const TEXT_SESSIONS =
  'CREATE TABLE text_sessions (id bigserial PRIMARY KEY, patient_id bigint, doctor_id bigint)';

describe('npm run explain', () => {
  let test: TestApp;
  let storage: StorageProvider;
  let image: UploadedChatImageDto;

  beforeAll(async () => {
    test = await TestApp.start(
      {
        MIGRATION_PHASE: '3',
        USERS_ACTIVE_COLUMN: 'is_active',
        TEXT_SESSIONS: 'true',
        SWEEP_INTERVAL_SECONDS: '0',
      },
      [USERS, TEXT_SESSIONS],
    );
    storage = test.app.get(StorageProvider);
    await test.database.query('INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (9, $1, $2)', [
      PATIENT,
      DOCTOR,
    ]);
  });

  beforeEach(async () => {
    image = await upload();
  });

  afterEach(async () => {
    await test.database.query('DELETE FROM chat_images');
  });

  afterAll(() => test.stop());

  async function upload(appointment = String(APPOINTMENT)): Promise<UploadedChatImageDto> {
    const response = await test.upload(await picture('png'), { appointment, name: 'Jane Doe.png' });
    return ((await response.json()) as UploadedChatImageResponseDto).data;
  }

  async function run(
    args: readonly string[],
    environment: NodeJS.ProcessEnv = {},
  ): Promise<{ exit: number | null; output: string }> {
    const { storage: local, database } = test.settings;
    const child = new RunningProcess(['commands/explain.js', ...args], {
      env: {
        ...TEST_ENVIRONMENT,
        DATABASE_URL: database.url,
        LOCAL_STORAGE_DIR: local.driver === 'local' ? local.directory : '',
        MIGRATION_PHASE: '3',
        USERS_ACTIVE_COLUMN: 'is_active',
        TEXT_SESSIONS: 'true',
        ...environment,
      },
      cwd: tmpdir(),
    });
    return { exit: await child.exit, output: child.output };
  }

  /** Runs the command. It may write nothing, and print nothing that opens a picture or names a person. */
  async function explain(
    user: number,
    id = image.id,
    environment: NodeJS.ProcessEnv = {},
  ): Promise<{ exit: number | null; output: string }> {
    const before = await rows();
    const result = await run(['--image', String(id), '--user', String(user)], environment);
    expect(await rows()).toEqual(before);
    expect(result.output).not.toMatch(/https?:|[Ss]ignature|token=|eyJ\w{10}|Jane/);
    for (const secret of [JWT_SECRET, TEST_ENVIRONMENT.LOCAL_STORAGE_SECRET])
      expect(result.output).not.toContain(secret);
    return result;
  }

  /** All that the service writes. */
  const rows = (): Promise<unknown> =>
    test.database.query(
      `SELECT (SELECT json_agg(a ORDER BY id) FROM chat_image_access a) AS trail,
         (SELECT json_agg(o ORDER BY id) FROM chat_image_link_opens o) AS opens,
         (SELECT json_agg(i ORDER BY id) FROM chat_images i) AS images,
         (SELECT json_agg(t ORDER BY object_key) FROM chat_image_tombstones t) AS tombstones`,
    );

  it('tells a participant who is allowed, whole objects and the trail', async () => {
    await test.fetch(`/api/chat-images/${image.id}/signed-url?variant=thumbnail`, { as: DOCTOR });
    const headers = { 'X-App-Version': 'app/1.2' };
    expect((await test.fetch(new URL(image.media_url).pathname, { headers })).status).toBe(302);
    const { exit, output } = await explain(DOCTOR);
    expect([exit, output]).toEqual([
      0,
      expect.stringMatching(/^decision +ALLOWED\. User 2 takes part in appointment 145\.$/m),
    ]);
    expect(output).toMatch(/^without token +opens at its stable address \(MIGRATION_PHASE=3\)$/m);
    expect(output).toMatch(/^conversation +appointment 145: patient is user 1, doctor is user 2$/m);
    expect(output).toMatch(/^row +stored, sent by user 1 at 2\S+Z, image\/png$/m);
    expect(output).toMatch(/^imported +no, an upload$/m);
    expect(output).toMatch(new RegExp(`^object +intact, \\d+ bytes: ${image.file_path}$`, 'm'));
    expect(output).toMatch(/^thumbnail +right size, \d+ bytes: /m);
    expect(output).toMatch(/'app\/1\.2'.*'original'.* 1 /);
    expect(output).toMatch(/\.\d{3}Z' +│ +2 +│ +'thumbnail'/);
    // The upload handed its URL to the patient.
    expect(output).toMatch(/\.\d{3}Z' +│ +1 +│ +'original'/);
  });

  it('shows at most the last entries that are asked for', async () => {
    for (let count = 0; count < 3; count += 1)
      await test.fetch(`/api/chat-images/${image.id}/signed-url`, { as: DOCTOR });
    const { output } = await run(['--image', String(image.id), '--user', '2', '--last', '2']);
    expect(output.match(/Z' +│ +[12] +│/g)).toHaveLength(2);
  });

  it('decides in MIGRATION_PHASE=4 that nobody opens it without a token', async () => {
    const { output } = await explain(DOCTOR, image.id, { MIGRATION_PHASE: '4' });
    expect(output).toMatch(/^without token +refused/m);
  });

  it('tells why a user is refused', async () => {
    const outsider = await explain(OUTSIDER);
    expect([outsider.exit, outsider.output]).toEqual([
      2,
      expect.stringContaining('FORBIDDEN. User 3 is neither the patient nor the doctor of appointment 145.'),
    ]);
    const nobody = await explain(99);
    expect([nobody.exit, nobody.output]).toEqual([
      2,
      expect.stringContaining('UNAUTHENTICATED. There is no user 99.'),
    ]);
    for (const change of ['is_active = false', 'deleted_at = now()']) {
      await test.database.query(`UPDATE users SET ${change} WHERE id = $1`, [DOCTOR]);
      const off = await explain(DOCTOR);
      await test.database.query('UPDATE users SET is_active = true, deleted_at = NULL');
      expect([off.exit, off.output]).toEqual([
        2,
        expect.stringContaining('UNAUTHENTICATED. User 2 is deleted or switched off'),
      ]);
    }
  });

  it('tells a picture that never was from a deleted one', async () => {
    const unknown = await explain(DOCTOR, 999_999);
    expect([unknown.exit, unknown.output]).toEqual([
      2,
      expect.stringContaining('IMAGE_NOT_FOUND. No picture has had the number 999999 yet'),
    ]);
    const appointment = await test.addPatient();
    const response = await test.upload(await picture('png'), {
      as: appointment,
      appointment: String(appointment),
    });
    const { data } = (await response.json()) as UploadedChatImageResponseDto;
    await test.database.query('DELETE FROM appointments WHERE id = $1', [appointment]);
    const deleted = await explain(DOCTOR, data.id);
    expect([deleted.exit, deleted.output]).toEqual([
      2,
      expect.stringContaining('IMAGE_NOT_FOUND. There is no row: the picture was deleted'),
    ]);
  });

  it('tells of a text session that is gone, or that is switched off', async () => {
    const { id } = await upload('text_session_9');
    expect((await explain(DOCTOR, id)).output).toContain('ALLOWED. User 2 takes part in text session 9.');
    const off = await explain(DOCTOR, id, { TEXT_SESSIONS: 'false' });
    expect([off.exit, off.output]).toEqual([
      2,
      expect.stringContaining(
        'APPOINTMENT_NOT_FOUND. The picture belongs to text session 9, and TEXT_SESSIONS',
      ),
    ]);
    await test.database.query(`
      ALTER TABLE chat_images DROP CONSTRAINT chat_images_text_session_id_foreign;
      DELETE FROM text_sessions WHERE id = 9`);
    const gone = await explain(DOCTOR, id);
    expect([gone.exit, gone.output]).toEqual([
      2,
      expect.stringContaining("APPOINTMENT_NOT_FOUND. The picture's text session 9 is gone."),
    ]);
  });

  it('tells a missing and a changed object, and a thumbnail of another size', async () => {
    await storage.put(thumbnailKey(image.file_path, 'image/png'), [Buffer.from('small')], {
      contentType: 'image/webp',
    });
    const thumbnail = await explain(DOCTOR);
    expect([thumbnail.exit, thumbnail.output]).toEqual([
      2,
      expect.stringMatching(/^thumbnail +of another size, 5 bytes, by its row \d+: /m),
    ]);
    const bytes = Buffer.alloc(image.size, 1);
    await storage.put(image.file_path, [bytes], { contentType: 'image/png' });
    const changed = await explain(DOCTOR);
    expect([changed.exit, changed.output]).toEqual([2, expect.stringMatching(/^object +of other bytes, /m)]);
    await storage.put(image.file_path, [bytes.subarray(1)], { contentType: 'image/png' });
    expect((await explain(DOCTOR)).output).toMatch(/^object +of another size, \d+ bytes, by its row \d+: /m);
    await storage.delete(image.file_path);
    const missing = await explain(DOCTOR);
    expect([missing.exit, missing.output]).toEqual([
      2,
      expect.stringContaining('The user may see the picture, but its object is missing.'),
    ]);
  });

  it('tells the upload that is under way from the one that broke off', async () => {
    const set = (state: string, lease: string): Promise<unknown> =>
      test.database.query(
        `UPDATE chat_images SET state = $1, lease_until = now() + $2::interval WHERE id = $3`,
        [state, lease, image.id],
      );
    for (const [state, lease, why] of [
      ['pending', '1 hour', 'Its upload is under way.'],
      ['pending', '-1 hour', 'Its upload has not ended, and no process works on it'],
      ['abandoned', '-1 hour', 'Its upload broke off'],
    ] as const) {
      await set(state, lease);
      const { exit, output } = await explain(DOCTOR);
      expect([exit, output]).toEqual([2, expect.stringContaining(`IMAGE_NOT_FOUND. ${why}`)]);
    }
  });

  it('tells a tombstone, an import, and a path that names no object', async () => {
    await test.database.query(
      'INSERT INTO chat_image_tombstones (object_key, settled_at) VALUES ($1, now())',
      [image.file_path],
    );
    await test.database.query(`UPDATE chat_images SET imported_as = 'unchecked' WHERE id = $1`, [image.id]);
    await test.database.query(
      `INSERT INTO chat_image_imports (source, file_path, state, chat_image_id) VALUES ('s3://old', $1, 'registered', $2)`,
      [image.file_path, image.id],
    );
    const { output } = await explain(DOCTOR);
    expect(output).toMatch(/^tombstone +chat_images\/\S+ since \S+Z, tried 0 times: kept/m);
    expect(output).toMatch(/^imported +unchecked, from s3:\/\/old: registered$/m);
    await test.database.query(`UPDATE chat_images SET file_path = '../' || file_path WHERE id = $1`, [
      image.id,
    ]);
    expect((await explain(DOCTOR)).output).toContain(
      'IMAGE_NOT_FOUND. The file_path of its row names no object.',
    );
    await test.database.query('DELETE FROM chat_image_imports');
  });

  it('decides also while the storage is down', async () => {
    const { exit, output } = await explain(DOCTOR, image.id, {
      STORAGE_DRIVER: 's3',
      STORAGE_MAX_ATTEMPTS: '1',
      DO_SPACES_KEY: 'k',
      DO_SPACES_SECRET: 's',
      DO_SPACES_REGION: 'r',
      DO_SPACES_ENDPOINT: 'http://127.0.0.1:1',
      DO_SPACES_BUCKET: 'b',
      DO_SPACES_URL: 'http://127.0.0.1:1/b',
    });
    expect([exit, output]).toEqual([2, expect.stringMatching(/^decision +ALLOWED/m)]);
    expect(output).toMatch(/^object +unknown, .*\n +The storage does not answer: check DO_SPACES_ENDPOINT/m);
  });

  it('reads the trail as the role of DATABASE_DIRECT_URL where the serving role may not', async () => {
    await test.database.query(`
      CREATE ROLE serve LOGIN PASSWORD 'only in this test';
      GRANT SELECT ON ALL TABLES IN SCHEMA public TO serve;
      GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO serve;
      REVOKE SELECT ON chat_image_access FROM serve;
      GRANT INSERT ON chat_image_access, chat_image_link_opens TO serve`);
    const url = new URL(test.settings.database.url);
    url.username = 'serve';
    url.password = 'only in this test';
    const unreadable = await explain(DOCTOR, image.id, { DATABASE_URL: url.href });
    expect([unreadable.exit, unreadable.output]).toEqual([
      0,
      expect.stringMatching(/^trail +can not be read by the role of DATABASE_URL: set DATABASE_DIRECT_URL/m),
    ]);
    const direct = { DATABASE_URL: url.href, DATABASE_DIRECT_URL: test.settings.database.url };
    expect((await explain(DOCTOR, image.id, direct)).output).toMatch(/^trail +the last 1, at most 20:$/m);
  });

  it.each([[[]], [['--image', '1']], [['--image', '0', '--user', '1']], [['--image', '1', '--user', 'a']]])(
    'prints its usage for the arguments %j',
    async (args) => {
      expect(await run(args)).toEqual({ exit: 1, output: expect.stringMatching(/^Usage: /) });
    },
  );
});
