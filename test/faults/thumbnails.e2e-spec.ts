import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { SignedUrlDto, SignedUrlResponseDto } from '../../src/chat-images/dto/signed-url.dto.js';
import type { UploadedChatImageDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { thumbnailKey } from '../../src/chat-images/entities/chat-image-path.js';
import { StorageProvider } from '../../src/storage/storage-provider.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { DOCTOR } from '../support/test-app.js';
import { TwoInstances } from '../support/two-instances.js';

let instances: TwoInstances;

beforeAll(async () => {
  instances = await TwoInstances.start('database', {});
});

afterEach(async () => {
  jest.restoreAllMocks();
  await instances.endFault();
});

afterAll(() => instances.stop());

/** An image of the time before thumbnails. */
async function imageWithoutThumbnail(): Promise<UploadedChatImageDto> {
  const answer = await instances.upload(await picture('jpeg', 1280, 960), { to: instances.healthy.url });
  const image = await instances.expectReadable(answer);
  await instances.healthy.database.query(
    `UPDATE chat_images SET thumbnail_width = NULL, thumbnail_height = NULL, thumbnail_size = NULL, thumb_hash = NULL
     WHERE id = $1`,
    [image.id],
  );
  await instances.storage.delete(keyOf(image));
  return image;
}

const keyOf = ({ file_path, mime_type }: UploadedChatImageDto): string => thumbnailKey(file_path, mime_type);

async function askForThumbnail({ id }: UploadedChatImageDto, url: string): Promise<SignedUrlDto> {
  const response = await fetch(`${url}/api/chat-images/${id}/signed-url?variant=thumbnail`, {
    headers: instances.headers(DOCTOR),
  });
  expect(response.status).toBe(200);
  return ((await response.json()) as SignedUrlResponseDto).data;
}

/** The keys that an instance has written since. */
function writesOf(app: NestExpressApplication): string[] {
  const keys: string[] = [];
  const storage = app.get(StorageProvider);
  const put = storage.put.bind(storage);
  jest.spyOn(storage, 'put').mockImplementation((...call) => {
    keys.push(call[0]);
    return put(...call);
  });
  return keys;
}

async function endLeaseOf({ id }: UploadedChatImageDto): Promise<void> {
  await instances.healthy.database.query(
    'UPDATE chat_images SET thumbnail_lease_until = now() WHERE id = $1',
    [id],
  );
}

const columnsOf = ({ id }: UploadedChatImageDto): Promise<unknown> =>
  instances.healthy.database.query(
    'SELECT thumbnail_size AS size, thumbnail_lease_until IS NOT NULL AS leased FROM chat_images WHERE id = $1',
    [id],
  );

describe('a missing thumbnail', () => {
  it('is made once when two instances are asked at the same moment', async () => {
    // The faulty instance has its decoding process then, whose start takes longer than one waits for a thumbnail.
    await instances.expectReadable(await instances.upload(await picture('png')));
    const image = await imageWithoutThumbnail();
    const writes = [writesOf(instances.healthy.app), writesOf(instances.faulty)];
    const urls = [instances.healthy.url, instances.url];
    const answers = await Promise.all([...urls, ...urls].map((url) => askForThumbnail(image, url)));
    expect(writes.flat()).toEqual([keyOf(image)]);
    // The instance that did not make it has waited for it.
    for (const answer of answers) {
      expect(answer).toMatchObject({ variant: 'thumbnail', thumbnail: image.thumbnail });
      expect((await (await fetch(answer.url)).arrayBuffer()).byteLength).toBe(image.thumbnail?.size);
    }
    expect(await columnsOf(image)).toEqual([{ size: image.thumbnail?.size, leased: false }]);
  });

  it('is the whole picture when the instance dies before its commit, and is made by the next one after the lease', async () => {
    const image = await imageWithoutThumbnail();
    instances.proxy.fail({ how: 'cut before', at: 'commit-thumbnail' });
    expect(await askForThumbnail(image, instances.url)).toMatchObject({
      variant: 'original',
      thumbnail: null,
    });
    instances.proxy.pass();
    // The object is there, and its row knows that it may be.
    expect(await instances.storage.head(keyOf(image))).toBeDefined();
    expect(await columnsOf(image)).toEqual([{ size: null, leased: true }]);
    expect(await instances.unknownKeys()).toEqual([]);
    await endLeaseOf(image);
    expect(await askForThumbnail(image, instances.healthy.url)).toMatchObject({
      variant: 'thumbnail',
      thumbnail: image.thumbnail,
    });
  });

  it('is not committed by an instance that has lost its lease', async () => {
    const image = await imageWithoutThumbnail();
    instances.proxy.fail({ how: 'hold', at: 'commit-thumbnail' });
    const slow = askForThumbnail(image, instances.url);
    await eventually(() => instances.proxy.hits > 0);
    await endLeaseOf(image);
    const { thumbnail } = await askForThumbnail(image, instances.healthy.url);
    expect(thumbnail).toEqual(image.thumbnail);
    instances.proxy.pass();
    await slow;
    expect(await columnsOf(image)).toEqual([{ size: image.thumbnail?.size, leased: false }]);
    expect(await instances.healthy.database.query('SELECT FROM chat_image_tombstones')).toEqual([]);
  });

  it('goes with its row when the instance was killed on the way', async () => {
    const image = await imageWithoutThumbnail();
    instances.proxy.fail({ how: 'cut before', at: 'commit-thumbnail' });
    await askForThumbnail(image, instances.url);
    instances.proxy.pass();
    await instances.healthy.database.query('DELETE FROM chat_images WHERE id = $1', [image.id]);
    await instances.letGraceTimePass();
    await instances.sweep();
    expect(await instances.storage.head(keyOf(image))).toBeUndefined();
    expect(await instances.storage.head(image.file_path)).toBeUndefined();
  });
});
