import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { UploadClaims } from '../../src/uploads/upload-claims.js';
import { eventually } from '../support/eventually.js';
import { DOCTOR, PATIENT } from '../support/test-app.js';
import {
  type Answer,
  expectFailure,
  newPicture,
  OTHER_APPOINTMENT,
  sha256,
  TwoInstances,
  withoutSignature,
} from '../support/two-instances.js';

let instances: TwoInstances;

beforeAll(async () => {
  instances = await TwoInstances.start('database', {});
});

afterEach(() => instances.endFault());

afterAll(() => instances.stop());

describe('the same picture', () => {
  it('sent five times at the same time to two instances is stored once', async () => {
    const bytes = await newPicture();
    const answers = await Promise.all(
      [0, 1, 0, 1, 0].map((instance) =>
        instances.upload(bytes, { to: instance ? instances.healthy.url : instances.url }),
      ),
    );
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
    for (const answer of answers) await instances.expectReadable(answer);
    const [first] = answers;
    if (!first?.data) throw new Error('The first is one of five successes.');
    for (const answer of answers) expect(withoutSignature(answer)).toEqual(withoutSignature(first));
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
    // Each response has an audit row, and so has each of the five reads above.
    expect(await instances.audits(first.data.id)).toEqual([
      ...Array.from({ length: 5 }, () => ({ accessed_by: PATIENT })),
      ...Array.from({ length: 5 }, () => ({ accessed_by: DOCTOR })),
    ]);
  });

  it('waits in the same process for its first upload, with a single retry afterwards', async () => {
    const bytes = await newPicture();
    const { storage, healthy } = instances;
    const put = storage.put.bind(storage);
    let release = (): void => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    const puts = jest
      .spyOn(storage, 'put')
      .mockImplementationOnce((...object) => released.then(() => put(...object)));
    const claim = jest.spyOn(healthy.app.get(UploadClaims), 'claim');
    try {
      const upload = (): Promise<Answer> => instances.upload(bytes, { to: healthy.url });
      const uploads = [upload()];
      await eventually(() => puts.mock.calls.length > 0);
      uploads.push(upload(), upload());
      await eventually(() => claim.mock.calls.length === 3);
      // Duplicates that retried in a loop would retry several times in this pause.
      await setTimeout(500);
      expect(claim).toHaveBeenCalledTimes(3);
      release();
      const answers = await Promise.all(uploads);
      expect(new Set(answers.map(({ data }) => data?.id)).size).toBe(1);
      expect(claim).toHaveBeenCalledTimes(5);
    } finally {
      release();
      jest.restoreAllMocks();
    }
  });

  it('is not stored twice when another try has stored it meanwhile', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
    const upload = instances.upload(bytes);
    await eventually(() => instances.proxy.hits > 0);
    await instances.healthy.database.query(
      `INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, sha256_sent)
       SELECT appointment_id, file_path || '.duplicate', filename || '.duplicate', uploaded_by, size, mime_type, sha256_sent
       FROM chat_images WHERE sha256_sent = $1`,
      [sha256(bytes)],
    );
    instances.proxy.pass();
    expectFailure(await upload, 503, 'OVERLOADED');
    const stored = (await instances.rowsOf(bytes)).filter(({ state }) => state === 'stored');
    expect(stored.map(({ file_path: path }) => path)).toEqual([expect.stringMatching(/[.]duplicate$/)]);
    // The row has no object, which the checks of other tests would report.
    await instances.healthy.database.query('DELETE FROM chat_images WHERE id = $1', [stored[0]?.id]);
  });

  it('gets another file name where its own is taken', async () => {
    const { database } = instances.healthy;
    const bytes = await newPicture();
    const first = await instances.upload(await newPicture());
    await database.query(`
      CREATE SEQUENCE tries;
      CREATE FUNCTION take_name() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('tries') = 1 THEN NEW.filename := '${first.data?.file_path.split('/').at(-1)}'; END IF;
        RETURN NEW;
      END $$;
      CREATE TRIGGER take_name BEFORE INSERT ON chat_images FOR EACH ROW EXECUTE FUNCTION take_name();
    `);
    try {
      const second = await instances.upload(bytes);
      await instances.expectReadable(second);
      expect(second.data?.id).not.toBe(first.data?.id);
      expect(await database.query('SELECT last_value::int AS tries FROM tries')).toEqual([{ tries: 2 }]);
    } finally {
      await database.query('DROP FUNCTION take_name CASCADE; DROP SEQUENCE tries');
    }
  });

  it('is a new image for another user or appointment, and after UPLOAD_DEDUPE_SECONDS', async () => {
    const bytes = await newPicture();
    const first = await instances.upload(bytes);
    expect((await instances.upload(bytes)).data?.id).toBe(first.data?.id);
    const others = [
      await instances.upload(bytes, { as: DOCTOR }),
      await instances.upload(bytes, { appointment: OTHER_APPOINTMENT }),
    ];
    await instances.healthy.database.query(
      `UPDATE chat_images SET created_at = created_at - interval '301 seconds' WHERE id = $1`,
      [first.data?.id],
    );
    others.push(await instances.upload(bytes));
    for (const answer of [first, ...others]) await instances.expectReadable(answer);
    expect(new Set([first, ...others].map(({ data }) => data?.id)).size).toBe(4);
  });
});

describe('the Idempotency-Key', () => {
  const age = (table: string, imageId: number | undefined, time: string): Promise<unknown> =>
    instances.healthy.database.query(
      `UPDATE ${table} SET created_at = created_at - $1::interval
       WHERE ${table === 'chat_images' ? 'id' : 'chat_image_id'} = $2`,
      [time, imageId],
    );

  it('returns the first image also after UPLOAD_DEDUPE_SECONDS', async () => {
    const bytes = await newPicture();
    const key = randomUUID();
    const first = await instances.upload(bytes, { key });
    await age('chat_images', first.data?.id, '23 hours');
    const [repeated, healthy] = [
      await instances.upload(bytes, { key }),
      await instances.upload(bytes, { key, to: instances.healthy.url }),
    ];
    // The row is now 23 hours older than in the first response.
    const expected = { ...withoutSignature(first), created_at: repeated.data?.created_at };
    expect([repeated, healthy].map(withoutSignature)).toEqual([expected, expected]);
    await instances.expectReadable(repeated);
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('is answered 409 IDEMPOTENCY_KEY_REUSED for other bytes or another appointment', async () => {
    const bytes = await newPicture();
    const other = await newPicture();
    const key = randomUUID();
    const first = await instances.upload(bytes, { key });
    expectFailure(await instances.upload(other, { key }), 409, 'IDEMPOTENCY_KEY_REUSED');
    expectFailure(
      await instances.upload(bytes, { key, appointment: OTHER_APPOINTMENT }),
      409,
      'IDEMPOTENCY_KEY_REUSED',
    );
    expect(await instances.rowsOf(other)).toEqual([]);
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
    // The same key of another user is a different key.
    const doctors = await instances.upload(other, { key, as: DOCTOR });
    await instances.expectReadable(doctors);
    expect((await instances.upload(bytes, { key })).data?.id).toBe(first.data?.id);
  });

  it('sent with two concurrent pictures stores a single picture, and answers 409', async () => {
    const key = randomUUID();
    const answers = await Promise.all([
      instances.upload(await newPicture(), { key }),
      instances.upload(await newPicture(), { key, to: instances.healthy.url }),
    ]);
    const [success, refusal] = [...answers].sort((a, b) => a.status - b.status);
    if (!success) throw new Error('Two were sent.');
    await instances.expectReadable(success);
    expectFailure(refusal, 409, 'IDEMPOTENCY_KEY_REUSED');
  });

  it('sent five times at the same time to two instances stores one image', async () => {
    const bytes = await newPicture();
    const key = randomUUID();
    const answers = await Promise.all(
      [0, 1, 0, 1, 0].map((instance) =>
        instances.upload(bytes, { key, to: instance ? instances.healthy.url : instances.url }),
      ),
    );
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
    expect(new Set(answers.map(({ data }) => data?.id)).size).toBe(1);
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('and a second key for the same bytes return the same image', async () => {
    const bytes = await newPicture();
    const keys = [randomUUID(), randomUUID()];
    const ids = new Set<number | undefined>();
    for (const key of [...keys, ...keys]) ids.add((await instances.upload(bytes, { key })).data?.id);
    expect(ids.size).toBe(1);
    const [id] = ids;
    await age('chat_images', id, '1 hour');
    for (const key of keys) expect((await instances.upload(bytes, { key })).data?.id).toBe(id);
    const later = await instances.upload(bytes, { key: randomUUID() });
    await instances.expectReadable(later);
    expect(later.data?.id).not.toBe(id);
  });

  it('expires after 24 hours, and works for another picture', async () => {
    const bytes = await newPicture();
    const key = randomUUID();
    const ids: (number | undefined)[] = [];
    for (const next of [bytes, bytes, await newPicture()]) {
      const answer = await instances.upload(next, { key });
      await instances.expectReadable(answer);
      ids.push(answer.data?.id);
      await age('chat_images', answer.data?.id, '24 hours 1 second');
      await age('chat_image_upload_keys', answer.data?.id, '24 hours 1 second');
    }
    expect(new Set(ids).size).toBe(3);
    const keysOf = (): Promise<unknown[]> =>
      instances.healthy.database.query<unknown[]>(
        'SELECT chat_image_id FROM chat_image_upload_keys WHERE idempotency_key = $1',
        [key],
      );
    expect(await keysOf()).toHaveLength(1);
    await instances.sweep();
    expect(await keysOf()).toEqual([]);
  });

  it.each(['', 'with space', 'tab\tin', 'ümlaut', 'x'.repeat(256)])(
    'is answered 422 VALIDATION_FAILED for the malformed value %j',
    async (key) => {
      const bytes = await newPicture();
      const answer = await instances.upload(bytes, { key });
      expectFailure(answer, 422, 'VALIDATION_FAILED');
      expect(answer.error?.errors).toEqual({
        'Idempotency-Key': ['The Idempotency-Key must be 1 to 255 printable characters.'],
      });
      expect(await instances.rowsOf(bytes)).toEqual([]);
    },
  );

  it('may have 255 characters', async () => {
    await instances.expectReadable(
      await instances.upload(await newPicture(), { key: '!~'.repeat(127) + '"' }),
    );
  });
});
