import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { LIST_IMAGES } from '../../src/chat-images/chat-image-list.js';
import type {
  ChatImageListDto,
  ChatImageListResponseDto,
} from '../../src/chat-images/dto/chat-image-list.dto.js';
import type { NoSignedUrlDto, SignedUrlOfImageDto } from '../../src/chat-images/dto/signed-urls.dto.js';
import { ImageAccess } from '../../src/access/image-access.js';
import { accessStatements } from '../../src/access/permission-rule.js';
import { RequestDatabase } from '../../src/database/request-database.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { EVERY_USER } from '../../src/conversations/user-columns.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

/** The statement for a table users without columns that switch users off. */
const { decideImages: DECIDE_IMAGES } = accessStatements(EVERY_USER, false);

const OTHER_APPOINTMENT = 146;
const NO_SUCH_IMAGE = 999_999;

type Access = { readonly chat_image_id: number; readonly accessed_by: number };
type Entry = SignedUrlOfImageDto | NoSignedUrlDto;

/** Images 1 to 30 are of the patient's and the doctor's appointment, the newest last; 31 to 40 of the outsider's. */
const nameOf = (id: number): string => `17623794${String(id).padStart(2, '0')}_picture000.jpg`;

async function addImages(test: TestApp): Promise<void> {
  await test.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
    OTHER_APPOINTMENT,
    OUTSIDER,
    DOCTOR + 100,
  ]);
  const images = Array.from({ length: 40 }, (_, index) => index + 1);
  await test.database.query(
    `INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type, original_name,
       width, height, created_at)
     SELECT id, CASE WHEN id <= 30 THEN $2::bigint ELSE $3::bigint END, 'chat_images/appointment_' ||
       CASE WHEN id <= 30 THEN $2::bigint ELSE $3::bigint END || '/' || name, name, $4, 100, 'image/jpeg', 'rash.jpg', 4, 3,
       -- Three images share each second, so that pages end among equal times.
       '2025-11-05T21:50:00Z'::timestamptz + make_interval(secs => id / 3)
     FROM unnest($1::bigint[], $5::text[]) AS image (id, name)`,
    [images, APPOINTMENT, OTHER_APPOINTMENT, PATIENT, images.map(nameOf)],
  );
}

describe('signed URLs', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start();
    await addImages(test);
  });

  afterAll(() => test.stop());

  beforeEach(() => test.database.query('DELETE FROM chat_image_access'));

  const trail = (): Promise<Access[]> =>
    test.database.query<Access[]>('SELECT chat_image_id, accessed_by FROM chat_image_access ORDER BY id');

  /** Waits until a statement waits for a locked row, longer than `ms`. */
  async function isHeld({ name }: { readonly name: string }, ms = 0): Promise<void> {
    for (;;) {
      const rows = await test.database.query<unknown[]>(
        `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1
           AND clock_timestamp() - query_start > make_interval(secs => $2 / 1000.0)`,
        [`/* ${name} */%`, ms],
      );
      if (rows.length > 0) return;
    }
  }

  const post = (body: unknown, as: number | undefined = PATIENT): Promise<Response> =>
    test.fetch('/api/chat-images/signed-urls', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: typeof body === 'string' ? body : JSON.stringify(body),
      as,
    });

  async function entriesOf(ids: readonly unknown[], as = PATIENT): Promise<readonly Entry[]> {
    const response = await post({ ids }, as);
    expect([response.status, response.headers.get('cache-control')]).toEqual([200, 'no-store']);
    const { success, data } = (await response.json()) as { success: boolean; data: Entry[] };
    expect(success).toBe(true);
    return data;
  }

  const refused = async (response: Response): Promise<[number, string, object | undefined]> => {
    const { error_code: code, errors } = (await response.json()) as ErrorBodyDto;
    return [response.status, code, errors];
  };

  describe('POST /api/chat-images/signed-urls', () => {
    it('answers one entry per id in order, and writes one audit row per URL', async () => {
      const entries = await entriesOf([3, nameOf(1), '2', 3]);
      expect(entries).toEqual(
        [3, 1, 2, 3].map((id) => ({
          id,
          image_id: String(id),
          url: expect.stringContaining(nameOf(id)),
          expires_in: 3600,
          expires_at: expect.stringMatching(/^\d{4}-.*\.000000Z$/),
          variant: 'original',
          thumb_hash: null,
          thumbnail: null,
        })),
      );
      expect(await trail()).toEqual([3, 1, 2, 3].map((id) => ({ chat_image_id: id, accessed_by: PATIENT })));
    });

    it('answers an error code for each refused id, and URLs for the rest', async () => {
      const strange = ['', '0', '../1', 'a b', '💥', 'x'.repeat(256), '9007199254740993', '1;--'];
      const entries = await entriesOf([1, NO_SUCH_IMAGE, 31, nameOf(31), -1, 1.5, 1e300, ...strange, 2]);
      const notFound = (id: unknown): object => ({
        id,
        error_code: 'IMAGE_NOT_FOUND',
        message: 'Image not found.',
      });
      const forbidden = (id: unknown): object => ({
        id,
        error_code: 'FORBIDDEN',
        message: 'You do not have permission to access this image.',
      });
      expect(entries).toEqual([
        expect.objectContaining({ id: 1, image_id: '1' }),
        notFound(NO_SUCH_IMAGE),
        forbidden(31),
        forbidden(nameOf(31)),
        ...[-1, 1.5, 1e300, ...strange].map(notFound),
        expect.objectContaining({ id: 2, image_id: '2' }),
      ]);
      expect((await trail()).map(({ chat_image_id: id }) => id)).toEqual([1, 2]);
    });

    it('accepts 1 to 100 ids, as numbers or texts in a JSON body', async () => {
      expect(await entriesOf(Array.from({ length: 100 }, () => 7))).toHaveLength(100);
      expect(await trail()).toHaveLength(100);
      const malformed = [
        { ids: Array.from({ length: 101 }, () => 7) },
        { ids: [] },
        { ids: '7' },
        { ids: [null] },
        { ids: [[7]] },
        {},
        [],
        'null',
        '7',
        '{"ids":[7',
        // The stack has no room for so many levels.
        `{"ids":${'['.repeat(20_000)}${']'.repeat(20_000)}}`,
        '',
      ];
      for (const body of malformed) {
        const [status, code] = await refused(await post(body));
        expect([body, status, code]).toEqual([body, 422, 'VALIDATION_FAILED']);
      }
      for (const [body, field, sentence] of [
        [{ ids: [] }, 'ids', 'The ids must name at least one image.'],
        [malformed[0], 'ids', 'The ids may name at most 100 images.'],
        [
          { ids: [7, null] },
          'ids',
          'Each of ids must be the number of an image or its file name, or { id, variant }.',
        ],
        [{}, 'ids', 'The ids are required: an array of numbers and file names of images.'],
        [[], 'body', 'The body must be a JSON object with the field ids.'],
      ] as const)
        expect((await refused(await post(body)))[2]).toEqual({ [field]: [sentence] });
      // Unknown fields are ignored, however deep they are nested.
      const deep = `{"ids":[7],"other":${'['.repeat(20_000)}${']'.repeat(20_000)}}`;
      expect((await post(deep)).status).toBe(200);
      const text = await test.fetch('/api/chat-images/signed-urls', {
        method: 'POST',
        body: 'x',
        as: PATIENT,
      });
      expect((await refused(text)).slice(0, 2)).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE']);
      const latin = await test.fetch('/api/chat-images/signed-urls', {
        method: 'POST',
        headers: { 'content-type': 'application/json; charset=latin9' },
        body: '{"ids":[7]}',
        as: PATIENT,
      });
      expect((await refused(latin)).slice(0, 2)).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE']);
      const large = await post({ ids: ['x'.repeat(300_000)] });
      expect((await refused(large)).slice(0, 2)).toEqual([413, 'FILE_TOO_LARGE']);
      expect(await trail()).toHaveLength(101);
    });

    it('decides 100 ids in one SQL statement', async () => {
      const statements = test.app.get(RequestDatabase);
      const run = statements.runShared.bind(statements);
      const names: string[] = [];
      statements.runShared = (statement, values) => {
        names.push(statement.name);
        return run(statement, values);
      };
      try {
        await entriesOf(Array.from({ length: 100 }, (_, index) => index + 1));
      } finally {
        statements.runShared = run;
      }
      expect(names).toEqual([DECIDE_IMAGES.name]);
    });

    it('answers 401 to a user who was deleted', async () => {
      await test.database.query('INSERT INTO users (id) VALUES (50)');
      expect((await entriesOf([1], 50)).map((entry) => 'error_code' in entry && entry.error_code)).toEqual([
        'FORBIDDEN',
      ]);
      await test.database.query('DELETE FROM users WHERE id = 50');
      expect((await refused(await post({ ids: [1] }, 50))).slice(0, 2)).toEqual([401, 'UNAUTHENTICATED']);
    });
  });

  it.each(['/api/chat-images/1/signed-url', `/api/appointments/${APPOINTMENT}/chat-images?signed_urls=true`])(
    'get no audit row on HEAD %s',
    async (path) => {
      const head = await test.fetch(path, { method: 'HEAD', as: PATIENT });
      expect([head.status, await head.text(), await trail()]).toEqual([200, '', []]);
    },
  );

  describe('of concurrent requests', () => {
    it('go to the right user, each with its own audit row or error', async () => {
      const asks = Array.from({ length: 300 }, (_, index) => ({
        id: (index % 40) + 1,
        as: [PATIENT, DOCTOR, OUTSIDER][index % 3] ?? PATIENT,
      }));
      const answers = await Promise.all(
        asks.map(({ id, as }) => test.fetch(`/api/chat-images/${id}/signed-url`, { as })),
      );
      const allowed = asks.map(({ id, as }) => (id <= 30 ? as !== OUTSIDER : as === OUTSIDER));
      expect(answers.map(({ status }) => status)).toEqual(allowed.map((may) => (may ? 200 : 403)));
      for (const [index, answer] of answers.entries()) {
        const id = asks[index]?.id ?? 0;
        const text = await answer.text();
        if (allowed[index]) expect(text).toContain(`/${nameOf(id)}?`);
        else expect(text).not.toContain('Signature');
      }
      const expected = asks.filter((_, index) => allowed[index]);
      const byBoth = (a: Access, b: Access): number =>
        a.chat_image_id - b.chat_image_id || a.accessed_by - b.accessed_by;
      expect((await trail()).sort(byBoth)).toEqual(
        expected.map(({ id, as }) => ({ chat_image_id: id, accessed_by: as })).sort(byBoth),
      );
    });

    it('are answered 503 for the image of a held row, and 200 for all others', async () => {
      const holder = test.database.createQueryRunner();
      await holder.startTransaction();
      try {
        await holder.query('SELECT FROM chat_images WHERE id = 5 FOR UPDATE');
        const answers = await Promise.all(
          [5, 6, 7, 8, 9].map((id) => test.fetch(`/api/chat-images/${id}/signed-url`, { as: DOCTOR })),
        );
        expect(answers.map(({ status }) => status)).toEqual([503, 200, 200, 200, 200]);
        expect(answers[0]?.headers.get('retry-after')).toBe('5');
        const entries = await entriesOf([6, 5, 7]);
        expect(entries).toEqual([
          expect.objectContaining({ id: 6, image_id: '6' }),
          { id: 5, error_code: 'DATABASE_UNAVAILABLE', message: expect.any(String) },
          expect.objectContaining({ id: 7, image_id: '7' }),
        ]);
      } finally {
        await holder.rollbackTransaction();
        await holder.release();
      }
      expect((await test.fetch('/api/chat-images/5/signed-url', { as: DOCTOR })).status).toBe(200);
    });

    it.each([
      ['the shared statement', 0],
      // The shared statement ends after 50 ms.
      ['the retry for the held row', 60],
    ])('are decided again, each image alone, when a row is deleted during %s', async (_, ms) => {
      await test.database.query(
        `INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type)
         VALUES (41, $1, 'gone', 'gone.jpg', $2, 1, 'image/jpeg')`,
        [APPOINTMENT, PATIENT],
      );
      const access = test.app.get(ImageAccess);
      const holder = test.database.createQueryRunner();
      await holder.startTransaction();
      await holder.query('DELETE FROM chat_images WHERE id = 41');
      const decisions = Promise.all([10, 41, 11].map((id) => access.record({ id: PATIENT }, { id })));
      // The statement has seen the row, and waits for the transaction that deletes it.
      await Promise.race([isHeld(DECIDE_IMAGES, ms), decisions]);
      await holder.commitTransaction();
      await holder.release();
      expect(await decisions).toEqual([
        { granted: expect.objectContaining({ id: 10 }) },
        { refusal: 'IMAGE_NOT_FOUND' },
        { granted: expect.objectContaining({ id: 11 }) },
      ]);
      expect((await trail()).map(({ chat_image_id: id }) => id).sort()).toEqual([10, 11]);
    });
  });

  describe('under the permission rule', () => {
    afterEach(() =>
      test.database.query('UPDATE appointments SET patient_id = $2, doctor_id = $3 WHERE id = $1', [
        APPOINTMENT,
        PATIENT,
        DOCTOR,
      ]),
    );

    it.each([
      ['are answered 200 to the patient', PATIENT, PATIENT, DOCTOR, 200],
      ['are answered 200 to the doctor', DOCTOR, PATIENT, DOCTOR, 200],
      ['are answered 403 to an outsider', OUTSIDER, PATIENT, DOCTOR, 403],
      ['are answered 403 to the former doctor', DOCTOR, PATIENT, OUTSIDER, 403],
    ])('%s', async (_, as, patient, doctor, status) => {
      await test.database.query('UPDATE appointments SET patient_id = $2, doctor_id = $3 WHERE id = $1', [
        APPOINTMENT,
        patient,
        doctor,
      ]);
      for (const path of [
        'chat-images/1/signed-url',
        'chat-images/1',
        `appointments/${APPOINTMENT}/chat-images`,
      ]) {
        expect([path, (await test.fetch(`/api/${path}`, { as })).status]).toEqual([path, status]);
      }
      const entry = (await entriesOf([1], as))[0];
      expect(entry && 'url' in entry).toBe(status === 200);
    });

    it('are answered 403 to the former doctor when doctor_id is NULL', async () => {
      await test.database.query('ALTER TABLE appointments ALTER doctor_id DROP NOT NULL');
      await test.database.query('UPDATE appointments SET doctor_id = NULL WHERE id = $1', [APPOINTMENT]);
      expect((await test.fetch('/api/chat-images/1/signed-url', { as: DOCTOR })).status).toBe(403);
      expect((await test.fetch('/api/chat-images/1/signed-url', { as: PATIENT })).status).toBe(200);
    });
  });

  describe('GET /api/appointments/:id/chat-images', () => {
    async function list(query: string, as = PATIENT): Promise<ChatImageListDto> {
      const response = await test.fetch(`/api/appointments/${APPOINTMENT}/chat-images${query}`, { as });
      expect([response.status, response.headers.get('cache-control')]).toEqual([200, 'no-store']);
      return ((await response.json()) as ChatImageListResponseDto).data;
    }

    it.each([
      ['omits an image that is deleted during the request', 'DELETE FROM chat_images WHERE id = 42', 200],
      ['answers 401 to a user who is deleted during the request', 'DELETE FROM users WHERE id = 51', 401],
    ])('%s', async (_, removal, status) => {
      await test.database.query('INSERT INTO users (id) VALUES (51)');
      await test.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES (147, 51, $1)', [
        DOCTOR,
      ]);
      await test.database.query(
        `INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type)
         SELECT id, 147, 'path of ' || id, id || '.jpg', $1, 1, 'image/jpeg' FROM generate_series(42, 43) id`,
        [DOCTOR],
      );
      const holder = test.database.createQueryRunner();
      await holder.startTransaction();
      await holder.query(removal);
      const answer = test.fetch('/api/appointments/147/chat-images?signed_urls=true', { as: 51 });
      await isHeld(DECIDE_IMAGES);
      await holder.commitTransaction();
      await holder.release();
      expect((await answer).status).toBe(status);
      const images = status === 200 ? [43] : [];
      expect((await trail()).map(({ chat_image_id: id }) => id)).toEqual(images);
      await test.database.query('DELETE FROM appointments WHERE id = 147');
      await test.database.query('DELETE FROM users WHERE id = 51');
    });

    it('lists the newest image first with its data, and writes no audit row', async () => {
      const { images, next_cursor: next } = await list('');
      expect(images.map(({ id }) => id)).toEqual(Array.from({ length: 30 }, (_, index) => 30 - index));
      expect(next).toBeNull();
      expect(images[0]).toEqual({
        id: 30,
        image_id: '30',
        file_path: `chat_images/appointment_${APPOINTMENT}/${nameOf(30)}`,
        appointment_id: APPOINTMENT,
        uploaded_by: PATIENT,
        created_at: '2025-11-05T21:50:10.000000Z',
        media_url: `${test.settings.appUrl}/storage/chat_images/appointment_${APPOINTMENT}/${nameOf(30)}`,
        name: 'rash.jpg',
        size: 100,
        type: 'image',
        extension: 'jpg',
        mime_type: 'image/jpeg',
        width: 4,
        height: 3,
        thumb_hash: null,
        thumbnail: null,
      });
      const single = await test.fetch('/api/chat-images/30', { as: DOCTOR });
      expect(await single.json()).toEqual({ success: true, data: images[0] });
      expect(await trail()).toEqual([]);
    });

    it.each([1, 2, 4, 7, 29, 30, 100])(
      'lists each image once in pages of %d, also while new images arrive',
      async (limit) => {
        const seen: number[] = [];
        let cursor: string | null = '';
        for (let page = 0; cursor !== null; page += 1) {
          const query = cursor === '' ? `?limit=${limit}` : `?limit=${limit}&cursor=${cursor}`;
          const { images, next_cursor: next }: ChatImageListDto = await list(query);
          expect(images.length).toBe(Math.min(limit, 30 - seen.length));
          seen.push(...images.map(({ id }) => id));
          cursor = next;
          if (page === 0) {
            await test.database.query(
              `INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type)
             VALUES (42, $1, 'later', 'later.jpg', $2, 1, 'image/jpeg')`,
              [APPOINTMENT, PATIENT],
            );
          }
        }
        await test.database.query('DELETE FROM chat_images WHERE id = 42');
        expect(seen).toEqual(Array.from({ length: 30 }, (_, index) => 30 - index));
      },
    );

    it('adds URLs with signed_urls=true, and writes one audit row per URL', async () => {
      const { images } = await list('?limit=3&signed_urls=true', DOCTOR);
      expect(images).toEqual(
        [30, 29, 28].map((id) =>
          expect.objectContaining({
            id,
            url: expect.stringContaining(nameOf(id)),
            expires_in: 3600,
            expires_at: expect.stringMatching(/Z$/),
          }),
        ),
      );
      expect((await trail()).map((row) => [row.chat_image_id, row.accessed_by]).sort()).toEqual([
        [28, DOCTOR],
        [29, DOCTOR],
        [30, DOCTOR],
      ]);
    });

    it('lists only stored images', async () => {
      await test.database.query(`UPDATE chat_images SET state = 'pending' WHERE id = 30`);
      const { images } = await list('?limit=1&signed_urls=false');
      await test.database.query(`UPDATE chat_images SET state = 'stored' WHERE id = 30`);
      expect(images.map(({ id }) => id)).toEqual([29]);
    });

    it('answers 403 to an outsider, and 404 for an unknown appointment', async () => {
      const of = async (id: string, as: number): Promise<unknown[]> =>
        (await refused(await test.fetch(`/api/appointments/${id}/chat-images`, { as }))).slice(0, 2);
      expect(await of(String(APPOINTMENT), OUTSIDER)).toEqual([403, 'FORBIDDEN']);
      for (const id of ['999', '0', 'NaN', 'text_session_123', '-1', '9007199254740993'])
        expect([id, ...(await of(id, PATIENT))]).toEqual([id, 404, 'APPOINTMENT_NOT_FOUND']);
      expect(await trail()).toEqual([]);
    });

    it.each([
      ['limit=0', 'limit'],
      ['limit=101', 'limit'],
      ['limit=x', 'limit'],
      ['limit=1&limit=2', 'limit'],
      ['signed_urls=yes', 'signed_urls'],
      ['cursor=', 'cursor'],
      ['cursor=nonsense', 'cursor'],
      ['cursor=MTc2MjM3OTQwMTAwMC4x%00', 'cursor'],
      [`cursor=${Buffer.from('1762379401000.0').toString('base64url')}`, 'cursor'],
      [`cursor=${Buffer.from('99999999999999999.1').toString('base64url')}`, 'cursor'],
      [`cursor=${Buffer.from('8640000000000000.1').toString('base64url')}`, undefined],
      [`cursor=${Buffer.from('-1.1').toString('base64url')}`, 'cursor'],
    ])('answers 422 or 200, never 500, to the query %s', async (query, field) => {
      const response = await test.fetch(`/api/appointments/${APPOINTMENT}/chat-images?${query}`, {
        as: PATIENT,
      });
      if (field === undefined) {
        expect(response.status).toBe(200);
        return;
      }
      const [status, code, errors] = await refused(response);
      expect(JSON.stringify(errors)).toContain(`The ${field} must be`);
      expect([status, code, Object.keys(errors ?? {})]).toEqual([422, 'VALIDATION_FAILED', [field]]);
    });
  });

  it('are decided and listed by index scans, also on small tables', async () => {
    const statements = test.app.get(RequestDatabase);
    const plan = async (
      { name, text }: { name: string; text: string },
      values: unknown[],
    ): Promise<string> => {
      const rows = await statements.run(
        { name: `explain-${name}`, text: `EXPLAIN (FORMAT JSON) ${text}` },
        values,
      );
      return JSON.stringify(rows);
    };
    const decide = await plan(DECIDE_IMAGES, [[PATIENT], [1], [null], [null], [true]]);
    const list = await plan(LIST_IMAGES.appointment, [APPOINTMENT, 'infinity', Number.MAX_SAFE_INTEGER, 50]);
    expect(decide + list).not.toContain('Seq Scan');
    for (const index of [
      'chat_images_pkey',
      'chat_images_filename_unique',
      'appointments_pkey',
      'users_pkey',
    ])
      expect(decide).toContain(`"${index}"`);
    expect(list).toContain('"chat_images_appointment_id_created_at_index"');
    // The index gives the order, so no page needs a sort of all pictures.
    expect(list).not.toContain('"Node Type":"Sort"');
  });
});

describe('RATE_LIMIT_SIGNED_URLS_PER_MINUTE', () => {
  it('counts every URL of single requests, batches and lists', async () => {
    const test = await TestApp.start({ RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '20' });
    try {
      await addImages(test);
      const post = (count: number, as: number): Promise<Response> =>
        test.fetch('/api/chat-images/signed-urls', {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ ids: Array.from({ length: count }, (_, index) => index + 1) }),
          as,
        });
      expect((await post(15, PATIENT)).status).toBe(200);
      expect((await test.fetch('/api/chat-images/1/signed-url', { as: PATIENT })).status).toBe(200);
      // A refused batch counts as one URL, and the rest of the budget stays.
      expect((await post(100, PATIENT)).status).toBe(429);
      expect((await post(3, PATIENT)).status).toBe(200);
      expect((await post(1, PATIENT)).status).toBe(429);
      const list = (limit: number, as: number): Promise<Response> =>
        test.fetch(`/api/appointments/${APPOINTMENT}/chat-images?limit=${limit}&signed_urls=true`, { as });
      expect((await list(15, DOCTOR)).status).toBe(200);
      expect((await list(15, DOCTOR)).status).toBe(429);
      const rows = await test.database.query<unknown[]>('SELECT FROM chat_image_access');
      expect(rows).toHaveLength(15 + 1 + 3 + 15);
    } finally {
      await test.stop();
    }
  });
});
