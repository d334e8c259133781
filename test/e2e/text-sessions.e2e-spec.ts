import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { accessStatements } from '../../src/access/permission-rule.js';
import { LIST_IMAGES } from '../../src/chat-images/chat-image-list.js';
import type { ChatImageListResponseDto } from '../../src/chat-images/dto/chat-image-list.dto.js';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import type { UploadedChatImageDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { EVERY_USER } from '../../src/conversations/user-columns.js';
import { RequestDatabase } from '../../src/database/request-database.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';
import { newPicture, TwoInstances } from '../support/two-instances.js';

/** Both a text session of the patient and the doctor, and an appointment of the patient and another doctor. */
const BOTH = 147;
/** Only a text session of the patient and the doctor. */
const SESSION = 148;
/** Neither a text session nor an appointment. */
const NEITHER = 999;

const OTHER_DOCTOR = 4;
const LEGACY = 'https://old-bucket.fra1.example.com/public';

/** Adds the conversations of the constants above. */
async function addConversations(test: TestApp): Promise<void> {
  await test.database.query('INSERT INTO users (id) VALUES ($1)', [OTHER_DOCTOR]);
  await test.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
    BOTH,
    PATIENT,
    OTHER_DOCTOR,
  ]);
  await test.database.query(
    'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES ($1, $3, $4), ($2, $3, $4)',
    [BOTH, SESSION, PATIENT, DOCTOR],
  );
}

type Body = {
  readonly data?: UploadedChatImageDto;
  readonly message?: string;
  readonly error_code?: string;
  readonly errors?: unknown;
};

describe('with TEXT_SESSIONS=true', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start({
      TEXT_SESSIONS: 'true',
      MIGRATION_PHASE: '1',
      LEGACY_MEDIA_URL: LEGACY,
      UPLOAD_GRACE_SECONDS: '1',
      SWEEP_INTERVAL_SECONDS: '0',
    });
    await addConversations(test);
  });

  afterAll(() => test.stop());

  async function send(
    appointment: string,
    { as = PATIENT, bytes, key }: { as?: number; bytes?: Uint8Array; key?: string } = {},
  ): Promise<Body & { readonly status: number }> {
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(bytes ?? (await picture('png')))]), 'photo.jpg');
    form.append('appointment_id', appointment);
    const response = await test.fetch('/api/upload/chat-image', {
      method: 'POST',
      body: form,
      as,
      ...(key === undefined ? {} : { headers: { 'idempotency-key': key } }),
    });
    return { status: response.status, ...((await response.json()) as Body) };
  }

  /** Sends a picture that is accepted. */
  async function sent(...args: Parameters<typeof send>): Promise<UploadedChatImageDto> {
    const { status, data } = await send(...args);
    if (!data) throw new Error(`The upload was answered ${status}.`);
    return data;
  }

  /** The statuses of a request of the session's doctor, of the appointment's doctor and of an outsider. */
  async function statuses(path: string, init: RequestInit = {}): Promise<number[]> {
    const answers = [];
    for (const as of [DOCTOR, OTHER_DOCTOR, OUTSIDER]) answers.push(await test.fetch(path, { ...init, as }));
    return answers.map(({ status }) => status);
  }

  const audits = (id: number): Promise<unknown> =>
    test.database.query(
      'SELECT accessed_by AS by, count(*)::int FROM chat_image_access WHERE chat_image_id = $1 GROUP BY 1 ORDER BY 1',
      [id],
    );

  const stateOf = (id: number): Promise<unknown> =>
    test.database.query('SELECT state FROM chat_images WHERE id = $1', [id]);

  describe('an upload', () => {
    it.each([`text_session_${BOTH}`, `text_session:${BOTH}`, ` text_session_${BOTH} `, String(BOTH)])(
      'to %j is in the text session of its user',
      async (appointment) => {
        for (const as of [PATIENT, DOCTOR]) {
          const image = await sent(appointment, { as });
          expect(image).toMatchObject({
            appointment_id: BOTH,
            text_session_id: BOTH,
            file_path: expect.stringMatching(/^chat_images\/text_session_147\/\d{10}_[A-Za-z0-9]{10}\.png$/),
            media_url: `${test.url}/storage/${image.file_path}`,
          });
          expect(
            await test.database.query(
              'SELECT appointment_id, text_session_id FROM chat_images WHERE id = $1',
              [image.id],
            ),
          ).toEqual([{ appointment_id: null, text_session_id: BOTH }]);
        }
      },
    );

    it('to a bare number of a text session only is in the text session', async () => {
      expect((await sent(String(SESSION))).file_path).toMatch(/^chat_images\/text_session_148\//);
    });

    it.each([
      ['of an appointment only', APPOINTMENT, DOCTOR],
      ["of an appointment and of others' text session", BOTH, OTHER_DOCTOR],
    ])('to a bare number %s is in the appointment', async (_, appointment, as) => {
      const image = await sent(String(appointment), { as });
      expect(image.appointment_id).toBe(appointment);
      expect(image).not.toHaveProperty('text_session_id');
      expect(image.file_path).toMatch(new RegExp(`^chat_images/appointment_${appointment}/`));
    });

    it.each([
      [
        String(BOTH),
        OUTSIDER,
        403,
        'FORBIDDEN',
        'You do not have permission to send images to this appointment.',
      ],
      [
        String(APPOINTMENT),
        OUTSIDER,
        403,
        'FORBIDDEN',
        'You do not have permission to send images to this appointment.',
      ],
      [String(SESSION), OUTSIDER, 404, 'APPOINTMENT_NOT_FOUND', 'Appointment not found.'],
      [String(NEITHER), PATIENT, 404, 'APPOINTMENT_NOT_FOUND', 'Appointment not found.'],
      [`text_session_${NEITHER}`, PATIENT, 404, 'APPOINTMENT_NOT_FOUND', 'Text session not found.'],
      [`text_session_${APPOINTMENT}`, PATIENT, 404, 'APPOINTMENT_NOT_FOUND', 'Text session not found.'],
      [
        `text_session_${BOTH}`,
        OTHER_DOCTOR,
        403,
        'FORBIDDEN',
        'You do not have permission to send images to this text session.',
      ],
      [
        `text_session:${SESSION}`,
        OUTSIDER,
        403,
        'FORBIDDEN',
        'You do not have permission to send images to this text session.',
      ],
    ] as const)('to %s of user %d is %d %s: %s', async (appointment, as, status, code, message) => {
      expect(await send(appointment, { as })).toMatchObject({ status, error_code: code, message });
    });

    it.each([
      'text_session_',
      'text_session:',
      'text_session_0',
      'text_session_-1',
      'text_session_1.5',
      'text_session:abc',
      `text_session_ ${BOTH}`,
      `text_session_${BOTH}\n`.repeat(2),
      `TEXT_SESSION_${BOTH}`,
      `text_session${BOTH}`,
      `text_session-${BOTH}`,
      `text_session_text_session_${BOTH}`,
      `text_session_0${BOTH}`,
      'text_session_9007199254740992',
      `text_session_${'9'.repeat(40)}`,
      `appointment_${APPOINTMENT}`,
    ])('to %j is 422 VALIDATION_FAILED', async (appointment) => {
      expect(await send(appointment)).toMatchObject({
        status: 422,
        error_code: 'VALIDATION_FAILED',
        errors: { appointment_id: ['The appointment_id must be the number of an appointment.'] },
      });
    });
  });

  describe('a picture of a text session', () => {
    let image: UploadedChatImageDto;

    beforeEach(async () => {
      image = await sent(`text_session_${BOTH}`);
      await test.database.query('DELETE FROM chat_image_access');
      await test.database.query('DELETE FROM chat_image_link_opens');
    });

    it('is signed for its patient and doctor only, by number and by file name, with an audit row each', async () => {
      const filename = image.file_path.split('/').at(-1) ?? '';
      for (const name of [image.id, filename])
        expect(await statuses(`/api/chat-images/${name}/signed-url`)).toEqual([200, 403, 403]);
      expect((await test.fetch(`/api/chat-images/${image.id}/signed-url`, { as: PATIENT })).status).toBe(200);
      expect(await audits(image.id)).toEqual([
        { by: PATIENT, count: 1 },
        { by: DOCTOR, count: 2 },
      ]);
    });

    it('is described to its patient and doctor only, with its text_session_id', async () => {
      expect(await statuses(`/api/chat-images/${image.id}`)).toEqual([200, 403, 403]);
      const { data } = (await (
        await test.fetch(`/api/chat-images/${image.id}`, { as: DOCTOR })
      ).json()) as Body;
      expect(data).toMatchObject({ id: image.id, appointment_id: BOTH, text_session_id: BOTH });
    });

    it('is decided alone in a batch', async () => {
      const ofAppointment = await sent(String(BOTH), { as: OTHER_DOCTOR });
      const batch = async (as: number): Promise<unknown[]> => {
        const response = await test.fetch('/api/chat-images/signed-urls', {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ ids: [image.id, ofAppointment.id] }),
          as,
        });
        const { data } = (await response.json()) as { data: { error_code?: string }[] };
        return data.map(({ error_code: code }) => code);
      };
      expect(await batch(PATIENT)).toEqual([undefined, undefined]);
      expect(await batch(DOCTOR)).toEqual([undefined, 'FORBIDDEN']);
      expect(await batch(OTHER_DOCTOR)).toEqual(['FORBIDDEN', undefined]);
      expect(await audits(image.id)).toEqual([
        { by: PATIENT, count: 1 },
        { by: DOCTOR, count: 1 },
      ]);
    });

    it('leaves no audit row for a HEAD', async () => {
      for (const [path, expected] of [
        [`/api/chat-images/${image.id}/signed-url`, [200, 403, 403]],
        [`/api/text-sessions/${BOTH}/chat-images?signed_urls=true`, [200, 403, 403]],
        [new URL(image.media_url).pathname, [302, 403, 403]],
      ] as const)
        expect([path, await statuses(path, { method: 'HEAD' })]).toEqual([path, expected]);
      expect(await audits(image.id)).toEqual([]);
    });

    it('opens at its stable address for its patient and doctor, and by link in phase 1', async () => {
      for (const prefix of ['/storage', '/api/images'])
        expect(await statuses(`${prefix}/${image.file_path}`)).toEqual([302, 403, 403]);
      expect(await audits(image.id)).toEqual([{ by: DOCTOR, count: 2 }]);
      const byLink = await test.fetch(`/storage/${image.file_path}`);
      expect(byLink.status).toBe(302);
      expect((await fetch(byLink.headers.get('location') ?? '')).status).toBe(200);
      expect((await test.fetch(`/storage/${image.file_path}`, { method: 'HEAD' })).status).toBe(302);
      expect(await test.database.query('SELECT chat_image_id AS id FROM chat_image_link_opens')).toEqual([
        { id: image.id },
      ]);
    });

    it('is not at the address of the appointment of the same number', async () => {
      const address = `/storage/${image.file_path.replace('text_session', 'appointment')}`;
      // The picture is not here, so the appointment in the path decides.
      const answers = [];
      for (const as of [PATIENT, OTHER_DOCTOR, DOCTOR]) answers.push(await test.fetch(address, { as }));
      expect(answers.map(({ status }) => status)).toEqual([302, 302, 403]);
      for (const answer of answers.slice(0, 2))
        expect(answer.headers.get('location')).toMatch(/^https:\/\/old-bucket/);
      expect(await audits(image.id)).toEqual([]);
    });

    it('goes with its text session, and leaves tombstones of its objects', async () => {
      await test.database.query(
        'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (700, $1, $2)',
        [PATIENT, DOCTOR],
      );
      const doomed = await sent('700');
      await test.database.query('DELETE FROM text_sessions WHERE id = 700');
      expect(await stateOf(doomed.id)).toEqual([]);
      const tombstones = (): Promise<unknown> =>
        test.database.query('SELECT object_key AS key FROM chat_image_tombstones ORDER BY object_key');
      const thumbnail = thumbnailKey(doomed.file_path, doomed.mime_type);
      expect(await tombstones()).toEqual([{ key: doomed.file_path }, { key: thumbnail }]);
      expect((await test.fetch(`/api/chat-images/${doomed.id}/signed-url`, { as: DOCTOR })).status).toBe(404);
      const storage = test.app.get(StorageProvider);
      await eventually(async () => {
        await test.app.get(UploadSweeper).sweep();
        const left = await Promise.all([doomed.file_path, thumbnail].map((key) => storage.head(key)));
        return left.every((object) => object === undefined);
      });
    });

    it('is nobody’s where its text session is gone without it', async () => {
      await test.database.query(
        'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (701, $1, $2)',
        [PATIENT, DOCTOR],
      );
      const left = await sent('701');
      const foreignKey = 'chat_images_text_session_id_foreign';
      await test.database.query(`ALTER TABLE chat_images DROP CONSTRAINT ${foreignKey}`);
      await test.database.query('DELETE FROM text_sessions WHERE id = 701');
      for (const as of [undefined, PATIENT, DOCTOR])
        expect((await test.fetch(`/storage/${left.file_path}`, { as })).status).toBe(
          as === undefined ? 302 : 404,
        );
      // Without a token, the request is sent on like that for any picture that is not here.
      expect((await test.fetch(`/storage/${left.file_path}`)).headers.get('location')).toBe(
        `${LEGACY}/${left.file_path}`,
      );
      const refused = await test.fetch(`/api/chat-images/${left.id}/signed-url`, { as: PATIENT });
      expect(await refused.json()).toMatchObject({ error_code: 'APPOINTMENT_NOT_FOUND' });
      // The upload's own.
      expect(await audits(left.id)).toEqual([{ by: PATIENT, count: 1 }]);
      await test.database.query('DELETE FROM chat_images WHERE text_session_id = 701');
      await test.database.query(
        `ALTER TABLE chat_images ADD CONSTRAINT ${foreignKey}
         FOREIGN KEY (text_session_id) REFERENCES text_sessions (id) ON DELETE CASCADE`,
      );
    });

    it('is known to reconcile', async () => {
      const { missing, unknown } = await test.app.get(StorageReconciler).compare();
      expect(missing.first).toEqual([]);
      expect(unknown.first.filter(({ key }) => key.includes('text_session'))).toEqual([]);
    });
  });

  describe('an old picture at text_session_{id}, not here yet', () => {
    const address = (id: number): string => `chat_images/text_session_${id}/1700000000_OldPicture.JPG`;

    it('is redirected for the patient and the doctor of the text session in its path', async () => {
      for (const [as, id, status, code] of [
        [PATIENT, BOTH, 302, undefined],
        [DOCTOR, SESSION, 302, undefined],
        [OTHER_DOCTOR, BOTH, 403, 'FORBIDDEN'],
        [OUTSIDER, SESSION, 403, 'FORBIDDEN'],
        [PATIENT, APPOINTMENT, 404, 'APPOINTMENT_NOT_FOUND'],
      ] as const) {
        const response = await test.fetch(`/storage/${address(id)}`, { as });
        const location = status === 302 ? `${LEGACY}/${address(id)}` : null;
        expect([as, id, response.status, response.headers.get('location')]).toEqual([
          as,
          id,
          status,
          location,
        ]);
        if (code !== undefined) expect(await response.json()).toMatchObject({ error_code: code });
      }
    });

    it('is redirected without a token in phase 1', async () => {
      const response = await test.fetch(`/storage/${address(BOTH)}`);
      expect([response.status, response.headers.get('location')]).toEqual([
        302,
        `${LEGACY}/${address(BOTH)}`,
      ]);
    });
  });

  describe('the lists', () => {
    const list = async (path: string, as: number): Promise<ChatImageListResponseDto['data']> =>
      ((await (await test.fetch(path, { as })).json()) as ChatImageListResponseDto).data;

    it('of a text session and of the appointment of the same number have their own pictures', async () => {
      const [ofSession, ofAppointment] = [
        await sent(`text_session_${BOTH}`),
        await sent(String(BOTH), { as: OTHER_DOCTOR }),
      ];
      const idsOf = async (kind: string, as: number): Promise<number[]> =>
        (await list(`/api/${kind}/${BOTH}/chat-images`, as)).images.map(({ id }) => id);
      for (const as of [PATIENT, DOCTOR]) {
        const ids = await idsOf('text-sessions', as);
        expect([ids[0], ids.includes(ofAppointment.id)]).toEqual([ofSession.id, false]);
      }
      for (const as of [PATIENT, OTHER_DOCTOR]) {
        const ids = await idsOf('appointments', as);
        expect([ids[0], ids.includes(ofSession.id)]).toEqual([ofAppointment.id, false]);
      }
    });

    it('of a text session come in pages, with URLs on request, each with an audit row', async () => {
      const images = [await sent(String(SESSION)), await sent(String(SESSION)), await sent(String(SESSION))];
      await test.database.query('DELETE FROM chat_image_access');
      const path = `/api/text-sessions/${SESSION}/chat-images?signed_urls=true&limit=2`;
      const first = await list(path, DOCTOR);
      const second = await list(`${path}&cursor=${first.next_cursor}`, DOCTOR);
      const listed = [...first.images, ...second.images].slice(0, 3);
      expect(listed.map(({ id }) => id)).toEqual(images.map(({ id }) => id).reverse());
      for (const { url, text_session_id: session } of listed)
        expect([session, (await fetch(url ?? '')).status]).toEqual([SESSION, 200]);
      for (const { id } of images) expect(await audits(id)).toEqual([{ by: DOCTOR, count: 1 }]);
    });

    it('are for the patient and the doctor of exactly that conversation', async () => {
      const refused = async (path: string, as: number): Promise<unknown[]> => {
        const response = await test.fetch(`/api/${path}/chat-images`, { as });
        const { error_code: code, message } = (await response.json()) as Body;
        return [response.status, code, message];
      };
      const forbidden = (kind: string): unknown[] => [
        403,
        'FORBIDDEN',
        `You do not have permission to see the images of this ${kind}.`,
      ];
      expect(await refused(`text-sessions/${BOTH}`, OTHER_DOCTOR)).toEqual(forbidden('text session'));
      expect(await refused(`appointments/${BOTH}`, DOCTOR)).toEqual(forbidden('appointment'));
      expect(await refused(`appointments/${SESSION}`, PATIENT)).toEqual([
        404,
        'APPOINTMENT_NOT_FOUND',
        'Appointment not found.',
      ]);
      for (const id of [String(APPOINTMENT), '0', 'NaN', `text_session_${BOTH}`, '9007199254740993'])
        expect([id, ...(await refused(`text-sessions/${id}`, PATIENT))]).toEqual([
          id,
          404,
          'APPOINTMENT_NOT_FOUND',
          'Text session not found.',
        ]);
      expect((await test.fetch(`/api/text-sessions/${BOTH}/chat-images`)).status).toBe(401);
      expect(
        (await test.fetch(`/api/text-sessions/${BOTH}/chat-images?limit=0`, { as: PATIENT })).status,
      ).toBe(422);
    });
  });

  describe('a repeated upload', () => {
    it('is the same image in the same text session, however the text session is named', async () => {
      const bytes = await picture('png');
      const ids = [];
      for (const appointment of [`text_session_${BOTH}`, `text_session:${BOTH}`, String(BOTH)])
        ids.push((await sent(appointment, { bytes })).id);
      expect(new Set(ids).size).toBe(1);
    });

    it('is a new image in a text session of the number of its appointment', async () => {
      const bytes = await picture('png');
      await test.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES (702, $1, $2)', [
        PATIENT,
        DOCTOR,
      ]);
      const ofAppointment = await sent('702', { bytes });
      await test.database.query(
        'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (702, $1, $2)',
        [PATIENT, DOCTOR],
      );
      const ofSession = await sent('702', { bytes });
      expect(ofSession.id).not.toBe(ofAppointment.id);
      expect([ofAppointment.file_path, ofSession.file_path].map((path) => path.split('/')[1])).toEqual([
        'appointment_702',
        'text_session_702',
      ]);
    });

    it('with an Idempotency-Key is the first image in its conversation, and 409 in any other', async () => {
      const bytes = await picture('png');
      const key = randomUUID();
      const first = await sent(`text_session_${BOTH}`, { bytes, key });
      expect((await sent(String(BOTH), { bytes, key })).id).toBe(first.id);
      for (const other of [String(SESSION), String(APPOINTMENT)])
        expect(await send(other, { bytes, key })).toMatchObject({
          status: 409,
          error_code: 'IDEMPOTENCY_KEY_REUSED',
        });
      await test.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES (703, $1, $2)', [
        PATIENT,
        DOCTOR,
      ]);
      const ofAppointment = randomUUID();
      await sent('703', { bytes, key: ofAppointment });
      await test.database.query(
        'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (703, $1, $2)',
        [PATIENT, DOCTOR],
      );
      expect((await send('703', { bytes, key: ofAppointment })).status).toBe(409);
    });

    it('takes over from an upload to a text session whose lease has ended', async () => {
      const bytes = await picture('png');
      const first = await sent(String(SESSION), { bytes });
      await test.database.query(
        `UPDATE chat_images SET state = 'pending', lease_until = now() - interval '1 second' WHERE id = $1`,
        [first.id],
      );
      const second = await sent(String(SESSION), { bytes });
      expect(second.id).not.toBe(first.id);
      expect(await stateOf(first.id)).toEqual([{ state: 'abandoned' }]);
      expect(await stateOf(second.id)).toEqual([{ state: 'stored' }]);
    });
  });

  describe('the table chat_images', () => {
    const insert = (appointment: number | null, session: number | null): Promise<unknown> =>
      test.database.query(
        `INSERT INTO chat_images (appointment_id, text_session_id, file_path, filename, uploaded_by, size, mime_type)
         VALUES ($1, $2, 'x', 'x', $3, 1, 'image/png')`,
        [appointment, session, PATIENT],
      );

    it('refuses a row of two conversations, and a row of none', async () => {
      await expect(insert(BOTH, BOTH)).rejects.toThrow(/chat_images_one_conversation/);
      await expect(insert(null, null)).rejects.toThrow(/chat_images_one_conversation/);
    });

    it("takes the main application's own INSERT, and the picture is of the appointment", async () => {
      const [row] = await test.database.query<{ id: number }[]>(
        `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, created_at, updated_at)
         VALUES ($1, 'chat_images/appointment_147/own.jpg', 'own.jpg', $2, 10, 'image/jpeg', now(), now()) RETURNING id`,
        [BOTH, PATIENT],
      );
      expect(await statuses(`/api/chat-images/${row?.id}`)).toEqual([403, 200, 403]);
      await test.database.query('DELETE FROM chat_images WHERE id = $1', [row?.id]);
    });
  });

  it('decides and lists by index scans, also on small tables', async () => {
    const statements = test.app.get(RequestDatabase);
    const plan = async ({ name, text }: { name: string; text: string }, values: unknown[]): Promise<string> =>
      JSON.stringify(
        await statements.run({ name: `explain-${name}`, text: `EXPLAIN (FORMAT JSON) ${text}` }, values),
      );
    const { decideImages, decideConversation, openByLink } = accessStatements(EVERY_USER, true);
    const plans = [
      await plan(decideImages, [[PATIENT], [1], [null], [null], ['original']]),
      await plan(decideConversation, [PATIENT, 'bare', BOTH]),
      await plan(openByLink, ['a.jpg', 'chat_images/text_session_1/a.jpg', 'a', 'b', 'original']),
    ];
    for (const text of plans) {
      expect(text).not.toContain('Seq Scan');
      expect(text).toContain('"appointments_pkey"');
      expect(text).toContain('"text_sessions_pkey"');
    }
    const list = await plan(LIST_IMAGES['text session'], [BOTH, 'infinity', Number.MAX_SAFE_INTEGER, 50]);
    expect(list).toContain('"chat_images_text_session_id_created_at_index"');
    expect(list).not.toMatch(/Seq Scan|"Node Type":"Sort"/);
  });

  it('a picture of a text session needs a token in phase 4, and one not here is 404', async () => {
    await test.restart({ MIGRATION_PHASE: '4' });
    const image = await sent(`text_session_${BOTH}`);
    const path = `/storage/${image.file_path}`;
    expect((await test.fetch(path)).status).toBe(401);
    expect(await statuses(path)).toEqual([302, 403, 403]);
    const old = '/storage/chat_images/text_session_147/1700000000_OldPicture.JPG';
    expect(await statuses(old)).toEqual([404, 404, 404]);
  });

  it('all is as before without TEXT_SESSIONS: nothing reads text_sessions', async () => {
    const image = await sent(`text_session_${BOTH}`);
    await test.restart({ TEXT_SESSIONS: '', MIGRATION_PHASE: '1' });
    await test.database.query('ALTER TABLE text_sessions RENAME TO text_sessions_elsewhere');
    for (const appointment of [`text_session_${BOTH}`, `text_session:${BOTH}`])
      expect(await send(appointment)).toMatchObject({
        status: 422,
        error_code: 'VALIDATION_FAILED',
        errors: { appointment_id: ['The appointment_id must be the number of an appointment.'] },
      });
    expect((await sent(String(BOTH))).file_path).toMatch(/^chat_images\/appointment_147\//);
    expect(await send(String(SESSION))).toMatchObject({ status: 404, error_code: 'APPOINTMENT_NOT_FOUND' });
    for (const as of [PATIENT, OUTSIDER]) {
      for (const id of [BOTH, NEITHER]) {
        const path = `/api/text-sessions/${id}/chat-images`;
        const response = await test.fetch(path, { as });
        expect([response.status, await response.json()]).toEqual([
          404,
          expect.objectContaining({ error_code: 'NOT_FOUND' }),
        ]);
        expect((await test.fetch(path, { as, method: 'HEAD' })).status).toBe(404);
      }
      const signed = await test.fetch(`/api/chat-images/${image.id}/signed-url`, { as });
      expect(await signed.json()).toMatchObject({ error_code: 'APPOINTMENT_NOT_FOUND' });
      const old = await test.fetch('/storage/chat_images/text_session_147/1700000000_OldPicture.JPG', { as });
      expect(await old.json()).toMatchObject({ error_code: 'APPOINTMENT_NOT_FOUND' });
    }
    expect(await statuses(`/api/appointments/${BOTH}/chat-images`)).toEqual([403, 200, 403]);
  });
});

describe('with TEXT_SESSIONS=true, on two instances', () => {
  let instances: TwoInstances;

  beforeAll(async () => {
    instances = await TwoInstances.start('database', {
      TEXT_SESSIONS: 'true',
      // No test here needs short timeouts, which a busy machine exceeds.
      DATABASE_STATEMENT_TIMEOUT_MS: '10000',
      STORAGE_REQUEST_TIMEOUT_MS: '10000',
    });
    await addConversations(instances.healthy);
  });

  afterEach(() => instances.endFault());

  afterAll(() => instances.stop());

  it('simultaneous uploads of a picture to a text session become one image', async () => {
    const bytes = await newPicture();
    const answers = await Promise.all(
      [0, 1, 0, 1, 0, 1].map((instance) =>
        instances.upload(bytes, {
          appointment: SESSION,
          to: instance ? instances.healthy.url : instances.url,
        }),
      ),
    );
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    expect(new Set(answers.map(({ data }) => data?.id)).size).toBe(1);
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('an upload whose text session is deleted meanwhile is 404, and leaves no object', async () => {
    const bytes = await newPicture();
    await instances.healthy.database.query(
      'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES (704, $1, $2)',
      [PATIENT, DOCTOR],
    );
    instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
    const upload = instances.upload(bytes, { appointment: 704 });
    await eventually(() => instances.proxy.hits > 0);
    await instances.healthy.database.query('DELETE FROM text_sessions WHERE id = 704');
    instances.proxy.pass();
    const { status, error } = await upload;
    expect([status, error?.error_code, error?.message]).toEqual([
      404,
      'APPOINTMENT_NOT_FOUND',
      'Text session not found.',
    ]);
    await instances.expectTidyAfterSweep();
  });
});
