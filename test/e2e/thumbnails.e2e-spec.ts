import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import type { ChatImageListResponseDto } from '../../src/chat-images/dto/chat-image-list.dto.js';
import type { ChatImageResponseDto } from '../../src/chat-images/dto/chat-image.dto.js';
import type { SignedUrlDto, SignedUrlResponseDto } from '../../src/chat-images/dto/signed-url.dto.js';
import type {
  NoSignedUrlDto,
  SignedUrlOfImageDto,
  SignedUrlsResponseDto,
} from '../../src/chat-images/dto/signed-urls.dto.js';
import type {
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { ImageProcesses } from '../../src/pictures/image-processes.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { StoredImageVerifier } from '../../src/upkeep/stored-image-verifier.js';
import { UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { eventually } from '../support/eventually.js';
import { phonePhoto, picture } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

let test: TestApp;

beforeAll(async () => {
  test = await TestApp.start({
    SWEEP_INTERVAL_SECONDS: '0',
    UPLOAD_GRACE_SECONDS: '1',
    MIGRATION_PHASE: '1',
  });
});

afterEach(() => {
  jest.restoreAllMocks();
});

afterAll(() => test.stop());

async function upload(bytes: Buffer, as = PATIENT): Promise<UploadedChatImageDto> {
  const response = await test.upload(bytes, { as, appointment: String(as === PATIENT ? APPOINTMENT : as) });
  expect(response.status).toBe(200);
  return ((await response.json()) as UploadedChatImageResponseDto).data;
}

const bigPicture = (format: 'jpeg' | 'png' = 'jpeg'): Promise<Buffer> => picture(format, 1280, 960);

const storage = (): StorageProvider => test.app.get(StorageProvider);

const keyOf = ({ file_path, mime_type }: UploadedChatImageDto): string => thumbnailKey(file_path, mime_type);

async function thumbnailUrl(id: number | string, as = DOCTOR): Promise<SignedUrlDto> {
  const response = await test.fetch(`/api/chat-images/${id}/signed-url?variant=thumbnail`, { as });
  expect(response.status).toBe(200);
  return ((await response.json()) as SignedUrlResponseDto).data;
}

async function batch(body: object): Promise<Response> {
  return test.fetch('/api/chat-images/signed-urls', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    as: DOCTOR,
  });
}

const trailOf = (id: number): Promise<unknown> =>
  test.database.query(
    'SELECT accessed_by, variant FROM chat_image_access WHERE chat_image_id = $1 ORDER BY id',
    [id],
  );

/** An image of the time before thumbnails. */
async function withoutThumbnail(image: UploadedChatImageDto): Promise<UploadedChatImageDto> {
  await test.database.query(
    `UPDATE chat_images SET thumbnail_width = NULL, thumbnail_height = NULL, thumbnail_size = NULL, thumb_hash = NULL
     WHERE id = $1`,
    [image.id],
  );
  await storage().delete(keyOf(image));
  return image;
}

const leaseOf = async (id: number): Promise<unknown> => {
  const [row] = await test.database.query<{ lease: string }[]>(
    `SELECT CASE WHEN thumbnail_lease_until IS NULL THEN 'none' WHEN thumbnail_lease_until <= now() THEN 'passed'
       WHEN thumbnail_lease_until < now() + interval '61 seconds' THEN 'held' ELSE 'failed' END AS lease
     FROM chat_images WHERE id = $1`,
    [id],
  );
  return row?.lease;
};

async function keysOf(image: UploadedChatImageDto): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage().list(`${dirname(image.file_path)}/`))
    if (key.includes(image.file_path.split('/').at(-1) ?? '')) keys.push(key);
  return keys;
}

/** Lets tombstones settle, and sweeps. */
async function sweep(): Promise<void> {
  await test.database.query('UPDATE chat_image_tombstones SET settled_at = now(), next_attempt_at = now()');
  await test.app.get(UploadSweeper).sweep();
}

describe('an uploaded picture', () => {
  it('has a thumbnail, which the answer describes and its URL reads', async () => {
    const image = await upload(await phonePhoto());
    expect(image.thumbnail).toEqual({ width: 640, height: 361, size: expect.any(Number) });
    expect(image.thumb_hash).toMatch(/^[\w+/=]{20,39}$/);
    expect(image.variant).toBe('original');
    const original = await fetch(image.signed_url);
    expect((await original.arrayBuffer()).byteLength).toBe(image.size);

    const signed = await thumbnailUrl(image.id);
    expect(signed).toMatchObject({
      variant: 'thumbnail',
      thumb_hash: image.thumb_hash,
      thumbnail: image.thumbnail,
      expires_in: 3600,
    });
    const response = await fetch(signed.url);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('image/jpeg');
    const bytes = Buffer.from(await response.arrayBuffer());
    expect(bytes.length).toBe(image.thumbnail?.size);
    expect(await sharp(bytes).metadata()).toMatchObject({ format: 'jpeg', width: 640, height: 361 });
    expect(await storage().head(keyOf(image))).toEqual({ size: bytes.length, contentType: 'image/jpeg' });

    const whole = await test.fetch(`/api/chat-images/${image.id}/signed-url`, { as: DOCTOR });
    expect(((await whole.json()) as SignedUrlResponseDto).data).toMatchObject({
      variant: 'original',
      thumb_hash: image.thumb_hash,
      thumbnail: image.thumbnail,
      url: expect.not.stringContaining('thumbs'),
    });
    expect(await trailOf(image.id)).toEqual([
      { accessed_by: PATIENT, variant: 'original' },
      { accessed_by: DOCTOR, variant: 'thumbnail' },
      { accessed_by: DOCTOR, variant: 'original' },
    ]);
    const known = await test.fetch(`/api/chat-images/${image.id}`, { as: DOCTOR });
    expect(((await known.json()) as ChatImageResponseDto).data).toMatchObject({
      thumb_hash: image.thumb_hash,
      thumbnail: image.thumbnail,
    });
  });

  it('of another type has a WebP', async () => {
    const image = await upload(await bigPicture('png'));
    expect(keyOf(image)).toBe(
      `${dirname(image.file_path)}/thumbs/${image.file_path.split('/').at(-1) ?? ''}.webp`,
    );
    const response = await fetch((await thumbnailUrl(image.file_path.split('/').at(-1) ?? '')).url);
    expect(response.headers.get('content-type')).toBe('image/webp');
    expect(await sharp(Buffer.from(await response.arrayBuffer())).metadata()).toMatchObject({
      format: 'webp',
      width: 640,
      height: 480,
    });
  });

  it('sent again answers with the same thumbnail', async () => {
    const bytes = await bigPicture();
    const first = await upload(bytes);
    const second = await upload(bytes);
    expect(second.id).toBe(first.id);
    expect(second.thumbnail).toEqual(first.thumbnail);
    expect(second.thumb_hash).toBe(first.thumb_hash);
  });

  it('shows its thumbnail to nobody else, and leaves no trail then', async () => {
    const image = await upload(await bigPicture());
    const before = await trailOf(image.id);
    for (const [path, status] of [
      [`/api/chat-images/${image.id}/signed-url?variant=thumbnail`, 403],
      [`${new URL(image.media_url).pathname}?variant=thumbnail`, 403],
      [`/api/appointments/${APPOINTMENT}/chat-images?signed_urls=true&variant=thumbnail`, 403],
    ] as const)
      expect([path, (await test.fetch(path, { as: OUTSIDER })).status]).toEqual([path, status]);
    expect(await trailOf(image.id)).toEqual(before);
  });

  it.each(['small', '', 'Thumbnail', 'thumbnail&variant=original', 'thumbnail&variant=thumbnail'])(
    'has no variant %j',
    async (variant) => {
      const image = await upload(await picture('png'));
      const before = await trailOf(image.id);
      for (const [method, path] of [
        ['GET', `/api/chat-images/${image.id}/signed-url?variant=${variant}`],
        ['HEAD', `/api/chat-images/${image.id}/signed-url?variant=${variant}`],
        ['GET', `${new URL(image.media_url).pathname}?variant=${variant}`],
        ['GET', `/api/appointments/${APPOINTMENT}/chat-images?signed_urls=true&variant=${variant}`],
      ] as const) {
        const response = await test.fetch(path, { method, as: DOCTOR });
        expect([path, response.status]).toEqual([path, 422]);
        if (method === 'HEAD') continue;
        const { error_code, errors } = (await response.json()) as ErrorBodyDto;
        expect([error_code, errors]).toEqual([
          'VALIDATION_FAILED',
          { variant: ['The variant must be thumbnail or original.'] },
        ]);
      }
      expect(await trailOf(image.id)).toEqual(before);
    },
  );

  it('whose thumbnail can not be made is stored without it', async () => {
    const processes = test.app.get(ImageProcesses, { strict: false });
    const run = processes.run.bind(processes);
    jest.spyOn(processes, 'run').mockImplementationOnce(async (...call) => ({
      ...(await run(...call)),
      thumbnail: { failure: 'of this test' },
    }));
    const image = await upload(await bigPicture());
    expect(image).toMatchObject({ thumbnail: null, thumb_hash: null, width: 1280 });
    expect(await keysOf(image)).toEqual([image.file_path]);
    expect(test.logLines.some((line) => line.includes('a picture gets no thumbnail: of this test'))).toBe(
      true,
    );
    // It is made when it is asked for.
    expect(await thumbnailUrl(image.id)).toMatchObject({ variant: 'thumbnail' });
  });

  it('whose thumbnail can not be written is not stored, and nothing of it stays', async () => {
    const patient = await test.addPatient();
    const { storage: settings } = test.settings;
    if (settings.driver !== 'local') throw new Error('The test is about a local folder.');
    const folder = join(settings.directory, 'objects', `chat_images/appointment_${patient}`);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'thumbs'), 'a file where the folder of thumbnails would be');
    const response = await test.upload(await bigPicture(), { as: patient, appointment: String(patient) });
    expect(response.status).toBe(503);
    expect(((await response.json()) as ErrorBodyDto).error_code).toBe('STORAGE_UNAVAILABLE');
    const rows = await test.database.query<{ state: string; file_path: string }[]>(
      'SELECT state, file_path FROM chat_images WHERE appointment_id = $1',
      [patient],
    );
    expect(rows).toEqual([{ state: 'abandoned', file_path: expect.any(String) }]);
    await rm(join(folder, 'thumbs'));
    await test.database.query('DELETE FROM chat_images WHERE appointment_id = $1', [patient]);
    const path = rows[0]?.file_path ?? '';
    const tombstones = await test.database.query<{ key: string }[]>(
      'SELECT object_key AS key FROM chat_image_tombstones WHERE starts_with(object_key, $1) ORDER BY object_key',
      [`chat_images/appointment_${patient}/`],
    );
    expect(tombstones.map(({ key }) => key)).toEqual([path, thumbnailKey(path, 'image/jpeg')]);
    await sweep();
    expect(await storage().head(path)).toBeUndefined();
  });
});

describe('lists, batches and stable addresses', () => {
  it('a list hands out thumbnails, with what is known of them', async () => {
    const patient = await test.addPatient();
    const images = [
      await upload(await bigPicture(), patient),
      await upload(await bigPicture('png'), patient),
    ];
    const missing = await withoutThumbnail(images[0] ?? (await upload(await bigPicture(), patient)));
    const response = await test.fetch(
      `/api/appointments/${patient}/chat-images?signed_urls=true&variant=thumbnail`,
      { as: DOCTOR },
    );
    const { data } = (await response.json()) as ChatImageListResponseDto;
    expect(data.images.map(({ id, variant }) => [id, variant])).toEqual([
      [images[1]?.id, 'thumbnail'],
      [missing.id, 'thumbnail'],
    ]);
    for (const listed of data.images) {
      expect(listed.thumbnail?.width).toBe(640);
      expect(listed.thumb_hash).toMatch(/^.{20,39}$/);
      const bytes = Buffer.from(await (await fetch(listed.url ?? '')).arrayBuffer());
      expect(bytes.length).toBe(listed.thumbnail?.size);
    }
    const plain = await test.fetch(`/api/appointments/${patient}/chat-images`, { as: DOCTOR });
    const [first] = ((await plain.json()) as ChatImageListResponseDto).data.images;
    expect(first).toMatchObject({ thumbnail: images[1]?.thumbnail, thumb_hash: images[1]?.thumb_hash });
    expect(first).not.toHaveProperty('variant');
  });

  it('a batch takes one variant for all, and one of an id', async () => {
    const [one, two] = [await upload(await bigPicture()), await upload(await bigPicture('png'))];
    const variants = async (body: object): Promise<unknown> => {
      const { data } = (await (await batch(body)).json()) as SignedUrlsResponseDto;
      return data.map((entry: SignedUrlOfImageDto | NoSignedUrlDto) =>
        'url' in entry ? [entry.id, entry.variant, entry.url.includes('/thumbs/')] : entry.error_code,
      );
    };
    expect(await variants({ ids: [one.id, two.id] })).toEqual([
      [one.id, 'original', false],
      [two.id, 'original', false],
    ]);
    expect(
      await variants({
        ids: [one.id, { id: String(two.id), variant: 'original' }, 999],
        variant: 'thumbnail',
      }),
    ).toEqual([[one.id, 'thumbnail', true], [two.id, 'original', false], 'IMAGE_NOT_FOUND']);
    expect(await variants({ ids: [{ id: one.id }, { id: two.id, variant: 'thumbnail' }] })).toEqual([
      [one.id, 'original', false],
      [two.id, 'thumbnail', true],
    ]);
    expect(await trailOf(two.id)).toEqual([
      { accessed_by: PATIENT, variant: 'original' },
      { accessed_by: DOCTOR, variant: 'original' },
      { accessed_by: DOCTOR, variant: 'original' },
      { accessed_by: DOCTOR, variant: 'thumbnail' },
    ]);
  });

  it.each([
    [{ ids: [1], variant: 'small' }, 'variant'],
    [{ ids: [1], variant: null }, 'variant'],
    [{ ids: [{ id: 1, variant: 'small' }] }, 'ids'],
    [{ ids: [{ variant: 'thumbnail' }] }, 'ids'],
    [{ ids: [{ id: { id: 1 } }] }, 'ids'],
    [{ ids: [null] }, 'ids'],
  ])('a batch of %j is refused', async (body, field) => {
    const response = await batch(body);
    expect(response.status).toBe(422);
    expect(Object.keys(((await response.json()) as ErrorBodyDto).errors ?? {})).toEqual([field]);
  });

  it('a stable address leads to the thumbnail, and also without a token where the phase allows it', async () => {
    const image = await upload(await bigPicture());
    const path = `${new URL(image.media_url).pathname}?variant=thumbnail`;
    for (const as of [DOCTOR, undefined]) {
      const response = await test.fetch(path, as === undefined ? {} : { as });
      expect(response.status).toBe(302);
      const bytes = await (await fetch(response.headers.get('location') ?? '')).arrayBuffer();
      expect(bytes.byteLength).toBe(image.thumbnail?.size);
      expect(((await response.json()) as SignedUrlResponseDto).data.variant).toBe('thumbnail');
    }
    expect((await trailOf(image.id)) as unknown[]).toContainEqual({
      accessed_by: DOCTOR,
      variant: 'thumbnail',
    });
    const opens = (): Promise<unknown> =>
      test.database.query('SELECT variant FROM chat_image_link_opens WHERE chat_image_id = $1 ORDER BY id', [
        image.id,
      ]);
    expect(await opens()).toEqual([{ variant: 'thumbnail' }]);
    // Without a token no thumbnail is made.
    await withoutThumbnail(image);
    const response = await test.fetch(path);
    expect(((await response.json()) as SignedUrlResponseDto).data.variant).toBe('original');
    expect(await opens()).toEqual([{ variant: 'thumbnail' }, { variant: 'original' }]);
    expect(await leaseOf(image.id)).toBe('none');
  });
});

describe('a missing thumbnail', () => {
  it('is made when it is asked for, and once for requests at the same moment', async () => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    const put = jest.spyOn(storage(), 'put');
    const answers = await Promise.all(Array.from({ length: 8 }, () => thumbnailUrl(image.id)));
    expect(answers.map(({ variant }) => variant)).toEqual(answers.map(() => 'thumbnail'));
    expect(put).toHaveBeenCalledTimes(1);
    expect(answers[0]?.thumbnail).toEqual(image.thumbnail);
    expect(answers[0]?.thumb_hash).toBe(image.thumb_hash);
    const bytes = await (await fetch(answers[0]?.url ?? '')).arrayBuffer();
    expect(bytes.byteLength).toBe(image.thumbnail?.size);
    expect(await leaseOf(image.id)).toBe('none');
    expect(await trailOf(image.id)).toEqual([
      { accessed_by: PATIENT, variant: 'original' },
      ...answers.map(() => ({ accessed_by: DOCTOR, variant: 'thumbnail' })),
    ]);
  });

  it('is not made for an outsider', async () => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    const response = await test.fetch(`/api/chat-images/${image.id}/signed-url?variant=thumbnail`, {
      as: OUTSIDER,
    });
    expect(response.status).toBe(403);
    expect(await leaseOf(image.id)).toBe('none');
    expect(await storage().head(keyOf(image))).toBeUndefined();
  });

  it.each([
    [
      'is damaged',
      (image: UploadedChatImageDto) =>
        storage().put(image.file_path, [Buffer.from('\xff\xd8\xff')], { contentType: 'image/jpeg' }),
    ],
    ['is lost', (image: UploadedChatImageDto) => storage().delete(image.file_path)],
    [
      'is too large',
      (image: UploadedChatImageDto) =>
        storage().put(image.file_path, [Buffer.alloc(11 * 1024 * 1024)], { contentType: 'image/jpeg' }),
    ],
  ])('of a picture that %s is the whole picture, and is not tried again', async (_, harm) => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    await harm(image);
    expect(await thumbnailUrl(image.id)).toMatchObject({
      variant: 'original',
      thumbnail: null,
      thumb_hash: null,
    });
    expect(await leaseOf(image.id)).toBe('failed');
    const get = jest.spyOn(storage(), 'get');
    expect(await thumbnailUrl(image.id)).toMatchObject({ variant: 'original' });
    expect(get).not.toHaveBeenCalled();
    expect(await trailOf(image.id)).toEqual([
      { accessed_by: PATIENT, variant: 'original' },
      { accessed_by: DOCTOR, variant: 'original' },
      { accessed_by: DOCTOR, variant: 'original' },
    ]);
  });

  it('whose maker was killed is the whole picture at first, and is made when the lease has passed', async () => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    // The other process has written the object, and no more.
    await storage().put(keyOf(image), [Buffer.from('half a thumbnail')], { contentType: 'image/jpeg' });
    await test.database.query(
      `UPDATE chat_images SET thumbnail_lease_until = now() + interval '50 seconds' WHERE id = $1`,
      [image.id],
    );
    // The object without a size in its row is known.
    const { unknown } = await test.app.get(StorageReconciler).compare();
    expect(unknown.first.map(({ key }) => key)).not.toContain(keyOf(image));
    expect(await thumbnailUrl(image.id)).toMatchObject({ variant: 'original' });
    await test.database.query(`UPDATE chat_images SET thumbnail_lease_until = now() WHERE id = $1`, [
      image.id,
    ]);
    expect(await thumbnailUrl(image.id)).toMatchObject({ variant: 'thumbnail', thumbnail: image.thumbnail });
    expect(await storage().head(keyOf(image))).toMatchObject({ size: image.thumbnail?.size });
  });

  it('whose maker was killed goes with its row', async () => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    await storage().put(keyOf(image), [Buffer.from('half a thumbnail')], { contentType: 'image/jpeg' });
    await test.database.query(`UPDATE chat_images SET thumbnail_lease_until = now() WHERE id = $1`, [
      image.id,
    ]);
    await test.database.query('DELETE FROM chat_images WHERE id = $1', [image.id]);
    await sweep();
    expect(await keysOf(image)).toEqual([]);
  });

  it('is not made while an object with its key waits for its deletion', async () => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    await test.database.query(
      `INSERT INTO chat_image_tombstones (object_key, settled_at) VALUES ($1, now() + interval '1 hour')`,
      [keyOf(image)],
    );
    expect(await thumbnailUrl(image.id)).toMatchObject({ variant: 'original' });
    expect(await leaseOf(image.id)).toBe('none');
    await sweep();
    expect(await thumbnailUrl(image.id)).toMatchObject({ variant: 'thumbnail' });
  });

  it('of a row that is deleted meanwhile leaves no object', async () => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    const put = storage().put.bind(storage());
    jest.spyOn(storage(), 'put').mockImplementationOnce(async (...call) => {
      await test.database.query('DELETE FROM chat_images WHERE id = $1', [image.id]);
      // The sweeper is done with it before the object is written.
      await sweep();
      await put(...call);
    });
    const response = await test.fetch(`/api/chat-images/${image.id}/signed-url?variant=thumbnail`, {
      as: DOCTOR,
    });
    expect(response.status).toBe(404);
    expect(await keysOf(image)).toEqual([keyOf(image)]);
    await sweep();
    expect(await keysOf(image)).toEqual([]);
  });
});

describe('upkeep', () => {
  it('a deleted row takes both objects with it', async () => {
    const image = await upload(await bigPicture());
    expect(await keysOf(image)).toEqual([image.file_path, keyOf(image)]);
    await test.database.query('DELETE FROM chat_images WHERE id = $1', [image.id]);
    await sweep();
    expect(await keysOf(image)).toEqual([]);
    expect(await test.database.query('SELECT FROM chat_image_tombstones')).toEqual([]);
  });

  it('a row without a thumbnail, or of the main application, leaves no tombstone of one', async () => {
    const image = await withoutThumbnail(await upload(await bigPicture()));
    await test.database.query(
      `INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type)
       VALUES (99999, $1, 'chat_images/appointment_145/foreign.jpg', 'foreign.jpg', 1, 1, 'image/jpeg')`,
      [APPOINTMENT],
    );
    await test.database.query('DELETE FROM chat_images WHERE id IN ($1, 99999)', [image.id]);
    expect(await test.database.query('SELECT object_key FROM chat_image_tombstones')).toEqual([
      { object_key: image.file_path },
    ]);
    await sweep();
  });

  it('a row that is given another path leaves its thumbnail behind for the sweeper', async () => {
    const image = await upload(await bigPicture());
    const path = `${dirname(image.file_path)}/moved.jpg`;
    await test.database.query('UPDATE chat_images SET file_path = $2 WHERE id = $1', [image.id, path]);
    expect(
      await test.database.query(
        'SELECT thumbnail_size, thumb_hash, thumbnail_lease_until FROM chat_images WHERE id = $1',
        [image.id],
      ),
    ).toEqual([{ thumbnail_size: null, thumb_hash: null, thumbnail_lease_until: null }]);
    await sweep();
    expect(await keysOf(image)).toEqual([image.file_path]);
    await test.database.query('DELETE FROM chat_images WHERE id = $1', [image.id]);
    await storage().delete(image.file_path);
  });

  it('SQL and TypeScript derive the same keys', async () => {
    const rows: [string, string][] = [
      ['chat_images/appointment_1/1762379401_YoxmX4UUfE.jpg', 'image/jpeg'],
      ['chat_images/text_session_1/1762379401_YoxmX4UUfE', 'image/png'],
      ['a.gif', 'image/gif'],
      ['a/b\\1.c/d.webp', 'image/webp'],
      ['', 'image/jpg'],
      ['folder/', 'IMAGE/JPEG'],
      ['ä ö/\n', ''],
    ];
    for (const [path, type] of rows)
      expect(
        await test.database.query('SELECT chat_image_thumbnail_key($1, $2) AS key', [path, type]),
      ).toEqual([{ key: thumbnailKey(path, type) }]);
  });

  it('the comparison knows thumbnails, finds missing ones, and one that no row names', async () => {
    const [lost, damaged, forgotten] = [
      await upload(await bigPicture()),
      await upload(await bigPicture()),
      await upload(await bigPicture()),
    ];
    await storage().delete(keyOf(lost));
    await storage().put(keyOf(damaged), [Buffer.from('x')], { contentType: 'image/jpeg' });
    await test.database.query(
      `UPDATE chat_images SET thumbnail_width = NULL, thumbnail_height = NULL, thumbnail_size = NULL, thumb_hash = NULL,
         created_at = created_at - interval '1 minute' WHERE id = $1`,
      [forgotten.id],
    );
    await test.database.query(`UPDATE chat_images SET updated_at = now() - interval '1 minute'`);
    // Objects younger than UPLOAD_GRACE_SECONDS are nobody's business yet.
    const { missing, unknown, unknownByKind, thumbnails } = await eventually(async () => {
      const comparison = await test.app.get(StorageReconciler).compare();
      return comparison.unknown.count > 0 && comparison;
    });
    expect(missing.first).toEqual(
      expect.arrayContaining([
        { id: lost.id, filePath: keyOf(lost), found: 'nothing' },
        { id: damaged.id, filePath: keyOf(damaged), found: '1 bytes' },
      ]),
    );
    expect(unknown.first).toEqual([expect.objectContaining({ key: keyOf(forgotten), kind: 'thumbnail' })]);
    expect(unknownByKind.thumbnail).toBe(1);
    expect(thumbnails).toBeGreaterThan(2);
    const verified = await test.app.get(StoredImageVerifier).verify(undefined);
    expect(verified.damaged).toEqual(
      expect.arrayContaining([
        { id: lost.id, filePath: keyOf(lost), verdict: 'missing' },
        { id: damaged.id, filePath: keyOf(damaged), verdict: 'changed' },
      ]),
    );
    expect(verified.thumbnails).toMatchObject({ missing: 1, changed: 1 });
    expect(verified.thumbnails.intact).toBeGreaterThan(0);
    const reconciler = test.app.get(StorageReconciler);
    expect(await reconciler.removeUnknown(unknown.first, () => undefined)).toEqual([]);
    expect(await storage().head(keyOf(forgotten))).toBeUndefined();
    await test.database.query('DELETE FROM chat_images WHERE id IN ($1, $2, $3)', [
      lost.id,
      damaged.id,
      forgotten.id,
    ]);
  });
});

describe('with THUMBNAILS=false', () => {
  let earlier: UploadedChatImageDto;

  beforeAll(async () => {
    earlier = await upload(await bigPicture());
    await test.restart({ THUMBNAILS: 'false' });
  });

  it('none is made or handed out', async () => {
    const image = await upload(await bigPicture());
    expect(image).toMatchObject({ thumbnail: null, thumb_hash: null });
    expect(await keysOf(image)).toEqual([image.file_path]);
    for (const { id } of [image, earlier])
      expect(await thumbnailUrl(id)).toMatchObject({
        variant: 'original',
        url: expect.not.stringContaining('thumbs'),
      });
    expect(await leaseOf(image.id)).toBe('none');
    const open = await test.fetch(`${new URL(earlier.media_url).pathname}?variant=thumbnail`);
    expect(((await open.json()) as SignedUrlResponseDto).data.variant).toBe('original');
    expect(
      (await test.fetch(`/api/chat-images/${image.id}/signed-url?variant=small`, { as: DOCTOR })).status,
    ).toBe(422);
  });

  it('an earlier one still goes with its picture', async () => {
    await test.database.query('DELETE FROM chat_images WHERE id = $1', [earlier.id]);
    await sweep();
    expect(await keysOf(earlier)).toEqual([]);
  });
});
