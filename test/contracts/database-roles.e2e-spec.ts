import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { DataSource } from 'typeorm';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { StoredImageVerifier } from '../../src/upkeep/stored-image-verifier.js';
import { UpkeepSchedule } from '../../src/upkeep/upkeep-schedule.js';
import { loadDatabaseSettings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

/** The SQL of docs/operations.md: before a migration, after it, for text sessions, for the table of sessions, and for columns of users. */
const [BEFORE = '', AFTER = '', TEXT_SESSIONS = '', SESSIONS = '', USER_COLUMNS = ''] = sqlOfDocs();

function sqlOfDocs(): readonly string[] {
  const [, section = ''] = readFileSync('docs/operations.md', 'utf8').split('### Database roles');
  return [...section.matchAll(/```sql\n([^]*?)```/g)].map(([, sql = '']) => sql);
}

const MAIN_APPLICATION = `
  CREATE TABLE users (id bigserial PRIMARY KEY, email varchar(255), is_active boolean DEFAULT true, deleted_at timestamp(0));
  CREATE TABLE appointments (id bigserial PRIMARY KEY, patient_id bigint, doctor_id bigint, reason text);
  CREATE TABLE text_sessions (id bigserial PRIMARY KEY, patient_id bigint, doctor_id bigint, status text);
  CREATE TABLE user_sessions (id bigserial PRIMARY KEY, user_id bigint, jti varchar(64) UNIQUE, revoked_at timestamp(0), expires_at timestamp(0));
  INSERT INTO users (id) VALUES (${PATIENT}), (${DOCTOR}), (${OUTSIDER});
  INSERT INTO appointments (id, patient_id, doctor_id) VALUES (${APPOINTMENT}, ${PATIENT}, ${DOCTOR}), (146, ${PATIENT}, ${DOCTOR});
  INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (147, ${PATIENT}, ${DOCTOR});
`;

describe('the serving role with only the rights of docs/operations.md', () => {
  let test: TestApp;
  let owner: DataSource;
  let image: UploadedChatImageDto;

  beforeAll(async () => {
    test = await TestApp.start();
    const database = await test.postgres.database('roles');
    const urlOf = (role: string, password: string): string => {
      const url = new URL(database);
      url.username = role;
      url.password = password;
      return url.href;
    };
    owner = await new DataSource(
      dataSourceOptions(loadDatabaseSettings({ DATABASE_URL: database }), ENTITIES),
    ).initialize();
    await owner.query(MAIN_APPLICATION);
    // This is like a server where only the owner has rights.
    await owner.query('REVOKE ALL ON SCHEMA public FROM PUBLIC');
    await owner.query(BEFORE);
    const migrate = new RunningProcess(['commands/migrate.js'], {
      env: {
        DATABASE_URL: urlOf('chat_images_serve', 'choose another'),
        DATABASE_DIRECT_URL: urlOf('chat_images_migrate', 'choose one'),
      },
      cwd: tmpdir(),
    });
    expect([await migrate.exit, migrate.output]).toEqual([0, expect.stringMatching(/^Migrated up/)]);
    await owner.query(`SET ROLE chat_images_migrate; ${AFTER}; RESET ROLE; ${SESSIONS} ${USER_COLUMNS}`);
    await test.restart({
      DATABASE_URL: urlOf('chat_images_serve', 'choose another'),
      MIGRATION_PHASE: '1',
      LEGACY_MEDIA_URL: 'https://old.example.com',
      UPLOAD_GRACE_SECONDS: '1',
      SWEEP_INTERVAL_SECONDS: '0',
      USERS_ACTIVE_COLUMN: 'is_active',
    });
  });

  afterAll(async () => {
    await owner.destroy();
    await test.stop();
  });

  it('can upload, list, sign and open pictures', async () => {
    expect((await test.fetch('/api/health/ready')).status).toBe(200);
    const bytes = await picture('png');
    const response = await test.upload(bytes);
    expect(response.status).toBe(200);
    image = ((await response.json()) as UploadedChatImageResponseDto).data;
    expect((await test.upload(bytes)).status).toBe(200);
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(await picture('png'))]), 'a.png');
    form.append('appointment_id', '146');
    const key = { 'idempotency-key': 'once' };
    const repeated = await test.fetch('/api/upload/chat-image', {
      method: 'POST',
      body: form,
      headers: key,
      as: PATIENT,
    });
    expect(repeated.status).toBe(200);
    const statuses: [string, number][] = [];
    for (const path of [
      `/api/chat-images/${image.id}/signed-url`,
      `/api/chat-images/${image.id}`,
      `/api/appointments/${APPOINTMENT}/chat-images?signed_urls=true`,
      new URL(image.media_url).pathname,
    ]) {
      for (const as of [DOCTOR, OUTSIDER]) statuses.push([path, (await test.fetch(path, { as })).status]);
    }
    expect(statuses.map(([, status]) => status)).toEqual([200, 403, 200, 403, 200, 403, 302, 403]);
    const batch = await test.fetch('/api/chat-images/signed-urls', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ids: [image.id, 999] }),
      as: DOCTOR,
    });
    expect(batch.status).toBe(200);
    expect((await test.fetch(new URL(image.media_url).pathname)).status).toBe(302);
    expect((await test.fetch('/storage/chat_images/appointment_1/1600000000_OldPicture.jpg')).status).toBe(
      302,
    );
  });

  it('can upload to and list text sessions with the SQL for TEXT_SESSIONS=true, and not without it', async () => {
    const withoutRight = test.restart({ TEXT_SESSIONS: 'true' });
    await expect(withoutRight).rejects.toThrow('GRANT SELECT (id, patient_id, doctor_id) ON text_sessions');
    await owner.query(TEXT_SESSIONS);
    await test.restart({});
    for (const appointment of ['147', 'text_session_147', String(APPOINTMENT)])
      expect((await test.upload(await picture('png'), { appointment })).status).toBe(200);
    expect(
      (await test.fetch('/api/text-sessions/147/chat-images?signed_urls=true', { as: DOCTOR })).status,
    ).toBe(200);
    // The text session's pictures go with it: the migration's role may reference the table.
    await owner.query('DELETE FROM text_sessions WHERE id = 147');
    expect(await owner.query('SELECT FROM chat_images WHERE text_session_id IS NOT NULL')).toEqual([]);
  });

  it('can sweep, reconcile and verify', async () => {
    await owner.query(
      `UPDATE chat_images SET state = 'pending', created_at = now() - interval '1 hour' WHERE appointment_id = 146`,
    );
    await owner.query(`UPDATE chat_image_link_opens SET opened_at = now() - interval '1 year'`);
    await owner.query('UPDATE chat_image_tombstones SET settled_at = now()');
    await test.app.get(UpkeepSchedule).run();
    expect(await owner.query(`SELECT FROM chat_images WHERE state <> 'stored'`)).toEqual([]);
    expect(await owner.query('SELECT FROM chat_image_tombstones')).toEqual([]);
    expect(await owner.query('SELECT FROM chat_image_link_opens WHERE chat_image_id IS NULL')).toEqual([]);
    expect(await test.app.get(StorageReconciler).completePending()).toEqual({ completed: 0, pending: 0 });
    const { counts } = await test.app.get(StoredImageVerifier).verify(undefined);
    expect(counts).toMatchObject({ intact: 2, changed: 0, missing: 0 });
    expect(test.logLines.filter((line) => line.includes('tries again later'))).toEqual([]);
  });

  it('passes npm run check', async () => {
    const { storage } = test.settings;
    const check = new RunningProcess(['commands/check.js'], {
      env: {
        ...TEST_ENVIRONMENT,
        DATABASE_URL: test.settings.database.url,
        LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : '',
        USERS_ACTIVE_COLUMN: 'is_active',
        TEXT_SESSIONS: 'true',
      },
      cwd: tmpdir(),
    });
    await check.exit;
    for (const name of [
      'main tables',
      'database migrations',
      'database rights',
      'text sessions',
      'revoked tokens',
      'switched-off users',
    ])
      expect(check.output).toMatch(new RegExp(`^ok +${name} `, 'm'));
  });

  it('can read user_sessions: a revoked token gets 401', async () => {
    const token = test.token(DOCTOR);
    const { jti } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as {
      jti: string;
    };
    await owner.query('INSERT INTO user_sessions (user_id, jti, revoked_at) VALUES ($1, $2, now())', [
      DOCTOR,
      jti,
    ]);
    const headers = { authorization: `Bearer ${token}` };
    expect((await test.fetch(`/api/chat-images/${image.id}`, { headers })).status).toBe(401);
  });

  it('may not read other columns, change audit rows or alter tables', async () => {
    const serving = await new DataSource(
      dataSourceOptions(loadDatabaseSettings({ DATABASE_URL: test.settings.database.url }), ENTITIES),
    ).initialize();
    for (const statement of [
      'SELECT email FROM users',
      'SELECT reason FROM appointments',
      'SELECT status FROM text_sessions',
      'DELETE FROM text_sessions',
      'UPDATE appointments SET doctor_id = 3',
      'DELETE FROM users',
      'DELETE FROM chat_image_access',
      'UPDATE chat_image_access SET accessed_by = 3',
      'TRUNCATE chat_images CASCADE',
      'ALTER TABLE chat_images ADD COLUMN x integer',
      'CREATE TABLE mine (id integer)',
      'DROP TABLE chat_image_tombstones',
    ]) {
      expect([statement, await serving.query(statement).catch((error: unknown) => String(error))]).toEqual([
        statement,
        expect.stringMatching(/permission denied|must be owner/),
      ]);
    }
    await serving.destroy();
  });
});
