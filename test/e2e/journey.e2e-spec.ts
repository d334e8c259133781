import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { SignedUrlResponseDto } from '../../src/chat-images/dto/signed-url.dto.js';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { phonePhoto, picture, pixels } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, REQUIRED_STORAGES, TestApp } from '../support/test-app.js';

type AccessRow = { chat_image_id: number; accessed_by: number; accessed_at: Date };

const TIMESTAMP = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/;

describe.each(REQUIRED_STORAGES)(
  'a picture from its upload to its display, on $name storage',
  ({ environment }) => {
    const journey = environment ? it : it.skip;
    let test: TestApp;
    let photo: Buffer;
    let uploaded: UploadedChatImageDto;

    beforeAll(async () => {
      if (!environment) return;
      test = await TestApp.start(environment);
      photo = await phonePhoto();
      // React Native encodes a space in a name like this.
      const response = await test.upload(photo, { name: 'my%20rash.jpg' });
      expect(response.status).toBe(200);
      expect(response.headers.get('cache-control')).toBe('no-store');
      ({ data: uploaded } = (await response.json()) as UploadedChatImageResponseDto);
    });

    afterAll(async () => {
      if (environment) await test.stop();
    });

    const trail = (): Promise<AccessRow[]> =>
      test.database.query(
        'SELECT chat_image_id, accessed_by, accessed_at FROM chat_image_access ORDER BY id',
      );

    async function signedUrl(id: string | number, as: number): Promise<SignedUrlResponseDto['data']> {
      const response = await test.fetch(`/api/chat-images/${id}/signed-url`, { as });
      expect(response.status).toBe(200);
      expect(response.headers.get('cache-control')).toBe('no-store');
      return ((await response.json()) as SignedUrlResponseDto).data;
    }

    journey('the upload response has every field that old and new apps read', () => {
      expect(uploaded).toEqual({
        id: expect.any(Number),
        image_id: String(uploaded.id),
        file_path: expect.stringMatching(
          new RegExp(`^chat_images/appointment_${APPOINTMENT}/\\d{10}_[A-Za-z0-9]{10}\\.jpg$`),
        ),
        appointment_id: APPOINTMENT,
        uploaded_by: PATIENT,
        created_at: expect.stringMatching(TIMESTAMP),
        signed_url: expect.stringContaining(uploaded.file_path),
        media_url: `${test.settings.appUrl}/storage/${uploaded.file_path}`,
        url: uploaded.media_url,
        name: 'my rash.jpg',
        size: expect.any(Number),
        type: 'image',
        extension: 'jpg',
        mime_type: 'image/jpeg',
        width: 1278,
        height: 720,
        variant: 'original',
        thumb_hash: expect.stringMatching(/^[\w+/=]{20,39}$/),
        thumbnail: { width: 640, height: 361, size: expect.any(Number) },
      });
      // The stored picture is smaller, as the EXIF data is removed.
      expect(uploaded.size).toBeLessThan(photo.length);
      expect(uploaded.media_url).not.toMatch(/Signature=/);
      expect(Math.abs(Date.parse(uploaded.created_at) - Date.now())).toBeLessThan(60_000);
    });

    journey('the URL of its thumbnail reads a small picture with its content type', async () => {
      const answer = await test.fetch(`/api/chat-images/${uploaded.id}/signed-url?variant=thumbnail`, {
        as: DOCTOR,
      });
      const { data } = (await answer.json()) as SignedUrlResponseDto;
      expect(data).toMatchObject({ variant: 'thumbnail', thumbnail: uploaded.thumbnail });
      const response = await fetch(data.url);
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe('image/jpeg');
      expect(response.headers.get('content-disposition')).toMatch(/^inline/);
      expect((await response.arrayBuffer()).byteLength).toBe(uploaded.thumbnail?.size);
    });

    journey('the signed URL of the upload response reads the picture with its content type', async () => {
      const response = await fetch(uploaded.signed_url);
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe('image/jpeg');
      expect(response.headers.get('cache-control')).toMatch(/^private, max-age=\d+$/);
      expect(response.headers.get('content-disposition')).toMatch(/^inline/);
      expect((await response.arrayBuffer()).byteLength).toBe(uploaded.size);
    });

    journey('the doctor gets a signed URL by image number and by file name', async () => {
      for (const id of [uploaded.id, uploaded.file_path.split('/').at(-1) ?? '']) {
        const before = Math.floor(Date.now() / 1000);
        const { url, expires_in, expires_at } = await signedUrl(id, DOCTOR);
        expect(expires_in).toBe(3600);
        expect(expires_at).toMatch(TIMESTAMP);
        const signedAt = Date.parse(expires_at) / 1000 - 3600;
        expect(signedAt).toBeGreaterThanOrEqual(before);
        expect(signedAt).toBeLessThanOrEqual(Date.now() / 1000);
        const bytes = Buffer.from(await (await fetch(url)).arrayBuffer());
        expect((await pixels(bytes)).equals(await pixels(photo))).toBe(true);
      }
    });

    journey('the stable address and its old alias redirect to the picture', async () => {
      const path = new URL(uploaded.media_url).pathname;
      for (const address of [path, path.replace('/storage/', '/api/images/')]) {
        const response = await test.fetch(address, { as: DOCTOR });
        expect(response.status).toBe(302);
        expect(response.headers.get('cache-control')).toBe('no-store');
        expect((await fetch(response.headers.get('location') ?? '')).status).toBe(200);
      }
    });

    journey('every signed URL gets one audit row, and a refusal gets none', async () => {
      const before = await trail();
      const started = Date.now();
      await signedUrl(uploaded.id, DOCTOR);
      await test.fetch(`/api/chat-images/${uploaded.id}/signed-url`, { as: OUTSIDER });
      await test.fetch(`/api/chat-images/${uploaded.id}/signed-url`);
      await test.fetch('/api/chat-images/99999/signed-url', { as: DOCTOR });
      await test.fetch(new URL(uploaded.media_url).pathname, { as: OUTSIDER });
      await signedUrl(uploaded.id, PATIENT);
      const added = (await trail()).slice(before.length);
      expect(added.map(({ chat_image_id, accessed_by }) => [chat_image_id, accessed_by])).toEqual([
        [uploaded.id, DOCTOR],
        [uploaded.id, PATIENT],
      ]);
      for (const { accessed_at } of added) {
        expect(accessed_at.getTime()).toBeGreaterThanOrEqual(started - 1000);
        expect(accessed_at.getTime()).toBeLessThanOrEqual(Date.now() + 1000);
      }
    });

    journey('the upload gets an audit row for the signed URL in its response', async () => {
      expect((await trail())[0]).toMatchObject({ chat_image_id: uploaded.id, accessed_by: PATIENT });
    });

    journey('an outsider gets 403 FORBIDDEN, and a request without a token gets 401', async () => {
      const outsider = await test.fetch(`/api/chat-images/${uploaded.id}/signed-url`, { as: OUTSIDER });
      expect([outsider.status, await outsider.json()]).toMatchObject([403, { error_code: 'FORBIDDEN' }]);
      const nobody = await test.fetch(`/api/chat-images/${uploaded.id}/signed-url`);
      expect([nobody.status, await nobody.json()]).toMatchObject([401, { error_code: 'UNAUTHENTICATED' }]);
    });

    journey('the storage answers 403 to an object address without a signature', async () => {
      const { url } = await signedUrl(uploaded.id, DOCTOR);
      const bare = new URL(url);
      bare.search = '';
      expect((await fetch(bare)).status).toBe(403);
    });

    journey('the doctor can upload PNG, GIF and WebP pictures, which keep their type', async () => {
      for (const format of ['png', 'gif', 'webp'] as const) {
        const response = await test.upload(await picture(format), { as: DOCTOR });
        const { data } = (await response.json()) as UploadedChatImageResponseDto;
        expect(data).toMatchObject({
          mime_type: `image/${format}`,
          extension: format,
          uploaded_by: DOCTOR,
          width: 64,
          height: 48,
        });
        expect((await fetch(data.signed_url)).headers.get('content-type')).toBe(`image/${format}`);
      }
    });

    journey('the upload form may have appointment_id before the file', async () => {
      const form = new FormData();
      form.append('appointment_id', String(APPOINTMENT));
      form.append('file', new Blob([new Uint8Array(photo)]), 'photo.jpg');
      const response = await test.fetch('/api/upload/chat-image', {
        method: 'POST',
        body: form,
        as: PATIENT,
      });
      expect(response.status).toBe(200);
    });

    journey('twelve concurrent uploads get different names and rows', async () => {
      const pictures = await Promise.all(Array.from({ length: 12 }, () => picture('png')));
      const answers = await Promise.all(pictures.map((bytes) => test.upload(bytes)));
      const images = await Promise.all(
        answers.map((answer) => answer.json() as Promise<UploadedChatImageResponseDto>),
      );
      expect(answers.map(({ status }) => status)).toEqual(Array(12).fill(200));
      expect(new Set(images.map(({ data }) => data.file_path)).size).toBe(12);
      expect(new Set(images.map(({ data }) => data.id)).size).toBe(12);
    });
  },
);

describe.each(REQUIRED_STORAGES)('an expired signed URL, on $name storage', ({ environment }) => {
  const journey = environment ? it : it.skip;

  journey('is answered 403, and a new signed URL works', async () => {
    const test = await TestApp.start({ ...environment, SIGNED_URL_EXPIRES_SECONDS: '2' });
    try {
      const { data } = (await (
        await test.upload(await picture('png'))
      ).json()) as UploadedChatImageResponseDto;
      const ask = async (): Promise<SignedUrlResponseDto['data']> =>
        (
          (await (
            await test.fetch(`/api/chat-images/${data.id}/signed-url`, { as: DOCTOR })
          ).json()) as SignedUrlResponseDto
        ).data;
      const first = await ask();
      expect(first.expires_in).toBe(2);
      let status: number;
      do {
        const response = await fetch(first.url);
        await response.arrayBuffer();
        ({ status } = response);
        // The URL works until expires_at, by a clock that is read after the request.
        if (status !== 200) expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(first.expires_at));
      } while (status === 200 && Date.now() < Date.parse(first.expires_at) + 5000);
      expect(status).toBe(403);
      expect((await fetch((await ask()).url)).status).toBe(200);
    } finally {
      await test.stop();
    }
  });
});
