import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { picture } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, REQUIRED_STORAGES, TestApp } from '../support/test-app.js';

const LEGACY = 'https://old-bucket.fra1.example.com/public';
const OLD_NAME = '1700000000_OldPicture.JPG';

type LinkOpen = { chat_image_id: number | null; app_version: string; client_network: string };

describe.each(REQUIRED_STORAGES)('stable addresses on the $name storage', ({ environment }) => {
  if (!environment) {
    it.skip('follow the phases of the migration (skipped without S3_ENDPOINT)', () => undefined);
    return;
  }

  /** One installation goes through all phases. */
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start({
      ...environment,
      LEGACY_MEDIA_URL: LEGACY,
      LINK_URL_EXPIRES_SECONDS: '120',
      RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '100000',
    });
  });

  afterAll(() => test.stop());

  describe.each([
    { phase: '1', opens: true, legacy: true },
    { phase: '2', opens: true, legacy: true },
    { phase: '3', opens: true, legacy: false },
    { phase: '4', opens: false, legacy: false },
    { phase: '', opens: false, legacy: false },
  ])('in phase $phase', ({ phase, opens, legacy }) => {
    let image: UploadedChatImageDto;
    let bytes: Buffer;
    const path = (): string => new URL(image.media_url).pathname;

    beforeAll(async () => {
      await test.restart({ MIGRATION_PHASE: phase });
      bytes = await picture('png');
      const answer = (await (await test.upload(bytes)).json()) as UploadedChatImageResponseDto;
      image = answer.data;
    });

    afterEach(() => test.database.query('DELETE FROM chat_image_link_opens'));

    const linkOpens = (): Promise<LinkOpen[]> =>
      test.database.query<LinkOpen[]>(
        'SELECT chat_image_id, app_version, client_network FROM chat_image_link_opens ORDER BY id',
      );

    const audits = async (): Promise<number> =>
      (await test.database.query<unknown[]>('SELECT FROM chat_image_access')).length;

    const outcome = ({ status, headers }: Response): [number, string | null] => [
      status,
      headers.get('location'),
    ];

    it.each([
      ['no header', {}],
      ['an empty header', { authorization: '' }],
      ['the scheme Bearer alone', { authorization: 'Bearer ' }],
    ])('redirects in phases 1 to 3, else answers 401, without a token: %s', async (_, headers) => {
      const before = await audits();
      const response = await test.fetch(path(), { headers: { ...headers, 'x-app-version': '2.3.1' } });
      if (!opens) {
        expect([response.status, response.headers.get('www-authenticate')]).toEqual([401, 'Bearer']);
        expect(await linkOpens()).toEqual([]);
        return;
      }
      expect(response.status).toBe(302);
      expect(response.headers.get('cross-origin-resource-policy')).toBe('cross-origin');
      expect(response.headers.get('referrer-policy')).toBe('no-referrer');
      expect(response.headers.get('cache-control')).toBe('no-store');
      const { data } = (await response.json()) as { data: { url: string; expires_in: number } };
      expect(data.expires_in).toBe(120);
      expect(data.url).toBe(response.headers.get('location'));
      const shown = await fetch(data.url);
      expect(Buffer.from(await shown.arrayBuffer()).length).toBe(image.size);
      expect(await linkOpens()).toEqual([
        { chat_image_id: image.id, app_version: '2.3.1', client_network: '127.0.0.1' },
      ]);
      // There is no user whom an audit row could name.
      expect(await audits()).toBe(before);
    });

    it('treats the alias without a token like the stable address', async () => {
      const response = await test.fetch(path().replace('/storage/', '/api/images/'));
      expect(response.status).toBe(opens ? 302 : 401);
    });

    it('records a shortened, printable user agent when there is no app version', async () => {
      await test.fetch(path(), { headers: { 'user-agent': `okhttp/4.9.2 \xe4${'x'.repeat(300)}` } });
      const [row] = await linkOpens();
      if (opens) expect(row?.app_version).toBe(`okhttp/4.9.2 ?${'x'.repeat(86)}`);
      else expect(row).toBeUndefined();
    });

    it('answers HEAD without a signed URL, and records nothing', async () => {
      const asNobody = await test.fetch(path(), { method: 'HEAD' });
      expect(outcome(asNobody)).toEqual([opens ? 302 : 401, null]);
      const before = await audits();
      expect(outcome(await test.fetch(path(), { method: 'HEAD', as: PATIENT }))).toEqual([302, null]);
      expect([await linkOpens(), await audits()]).toEqual([[], before]);
    });

    it('applies the permission rule to requests with a token', async () => {
      for (const [as, status] of [
        [PATIENT, 302],
        [DOCTOR, 302],
        [OUTSIDER, 403],
      ] as const) {
        expect([as, (await test.fetch(path(), { as })).status]).toEqual([as, status]);
      }
      const wrong = await test.fetch(path(), { headers: { authorization: 'Bearer a.b.c' } });
      expect(wrong.status).toBe(401);
      expect(await linkOpens()).toEqual([]);
    });

    it('redirects to LEGACY_MEDIA_URL for pictures not imported yet, in phases 1 and 2', async () => {
      for (const folder of [`appointment_${APPOINTMENT}`, 'text_session_7', 'appointment_99']) {
        const key = `chat_images/${folder}/${OLD_NAME}`;
        const response = await test.fetch(`/storage/${key}`);
        const status = opens ? (legacy ? 302 : 404) : 401;
        expect([folder, ...outcome(response)]).toEqual([folder, status, legacy ? `${LEGACY}/${key}` : null]);
        expect((await test.fetch(`/storage/${key}`, { method: 'HEAD' })).status).toBe(status);
      }
      const rows = await linkOpens();
      expect(rows.map(({ chat_image_id: id }) => id)).toEqual(legacy ? [null, null, null] : []);
    });

    it('checks the appointment in an old path for requests with a token', async () => {
      const old = (appointment: number): string =>
        `/storage/chat_images/appointment_${appointment}/${OLD_NAME}`;
      const location = `${LEGACY}/chat_images/appointment_${APPOINTMENT}/${OLD_NAME}`;
      const expected = legacy
        ? { ours: [302, location], others: [403, null] }
        : { ours: [404, null], others: [404, null] };
      expect(outcome(await test.fetch(old(APPOINTMENT), { as: DOCTOR }))).toEqual(expected.ours);
      expect(outcome(await test.fetch(old(APPOINTMENT), { as: OUTSIDER }))).toEqual(expected.others);
      expect((await test.fetch(old(99), { as: DOCTOR })).status).toBe(404);
      expect(
        (await test.fetch(`/storage/chat_images/text_session_7/${OLD_NAME}`, { as: DOCTOR })).status,
      ).toBe(404);
    });

    it.each([
      'chat_images/appointment_145/..%2f..%2fsecret',
      'chat_images/appointment_0/a.jpg',
      'chat_images/appointment_145/a%0d%0ax.jpg',
      'chat_images/appointment_145/a b.jpg',
      'chat_images/appointment_145/@evil.example.com',
      'chat_images/profile/a.jpg',
      'chat_images/appointment_145/%2e%2e',
      'chat_images/appointment_145/...',
    ])('does not redirect an invalid path: %s', async (key) => {
      const response = await test.fetch(`/storage/${key}`);
      expect([[401, 404].includes(response.status), response.headers.get('location')]).toEqual([true, null]);
      expect(await linkOpens()).toEqual([]);
    });

    it('shows only stored pictures', async () => {
      await test.database.query(`UPDATE chat_images SET state = 'pending' WHERE id = $1`, [image.id]);
      try {
        const response = await test.fetch(path());
        expect(response.status).toBe(opens ? (legacy ? 302 : 404) : 401);
        if (legacy) expect(response.headers.get('location')).toContain(LEGACY);
      } finally {
        await test.database.query(`UPDATE chat_images SET state = 'stored' WHERE id = $1`, [image.id]);
      }
    });

    it('answers 401 without a token on all other routes', async () => {
      for (const route of [`/api/chat-images/${image.id}/signed-url`, `/api/chat-images/${image.id}`]) {
        expect([route, (await test.fetch(route)).status]).toEqual([route, 401]);
      }
    });
  });
});
