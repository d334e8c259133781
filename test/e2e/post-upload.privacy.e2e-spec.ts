import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import sharp from 'sharp';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { colourProfile, flatGifData, gifOfFrames, png, pngProfile } from '../support/hostile-pictures.js';
import { phonePhoto, picture, pixels } from '../support/pictures.js';
import { TestApp } from '../support/test-app.js';

describe('the stored picture', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start();
  });

  afterAll(() => test.stop());

  async function stored(
    bytes: Buffer,
  ): Promise<{ data: UploadedChatImageResponseDto['data']; object: Buffer }> {
    const { data } = (await (await test.upload(bytes)).json()) as UploadedChatImageResponseDto;
    return { data, object: Buffer.from(await (await fetch(data.signed_url)).arrayBuffer()) };
  }

  it('has no EXIF data of place, phone or time, and keeps every pixel', async () => {
    const photo = await phonePhoto();
    expect(photo.includes('Lumia')).toBe(true);
    const { data, object } = await stored(photo);
    expect(object.includes('Lumia') || object.includes('Nokia') || object.includes('Exif')).toBe(false);
    expect((await sharp(object).metadata()).exif).toBeUndefined();
    expect((await pixels(object)).equals(await pixels(photo))).toBe(true);
    expect(data.size).toBe(object.length);
  });

  it('keeps its orientation, with width and height as a viewer shows them', async () => {
    const turned = await sharp(await picture('jpeg', 90, 60))
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toBuffer();
    const { data, object } = await stored(turned);
    expect([data.width, data.height]).toEqual([60, 90]);
    expect((await sharp(object).metadata()).orientation).toBe(6);
    const phone = await readFile('test/images/phone-photo-rotated.jpg');
    expect((await sharp((await stored(phone)).object).metadata()).orientation).toBe(6);
  });

  it.each(['jpeg', 'png', 'gif', 'webp'] as const)(
    'has no bytes that were appended to a %s',
    async (format) => {
      const { object } = await stored(
        Buffer.concat([await picture(format), Buffer.from('PK\x03\x04<script>alert(1)</script>')]),
      );
      expect(object.includes('script')).toBe(false);
    },
  );

  it('has no serial number of a display in its colour profile, and keeps its colours', async () => {
    const serial = Buffer.from('mmod\0\0\0\0C02XJ0AAJGH5');
    const profile = colourProfile([['mmod', serial]]);
    const sent = png({ width: 4, height: 4, depth: 8 }, { before: pngProfile(profile), filter: 1 });
    const { object } = await stored(sent);
    const { icc } = await sharp(object).metadata();
    expect(icc).toHaveLength(profile.length);
    expect(icc?.includes('C02XJ0AAJGH5')).toBe(false);
    expect(icc?.includes('mmod')).toBe(false);
    expect((await pixels(object)).equals(await pixels(sent))).toBe(true);
  });

  it('has an end, when only its end was missing, and is refused when more was', async () => {
    const photo = await picture('jpeg');
    const { object } = await stored(photo.subarray(0, -2));
    expect(object.subarray(-2)).toEqual(Buffer.of(0xff, 0xd9));
    expect((await pixels(object)).equals(await pixels(photo))).toBe(true);
    expect((await test.upload(photo.subarray(0, -3))).status).toBe(422);
    expect((await test.upload(Buffer.concat([photo.subarray(0, -40), Buffer.alloc(40)]))).status).toBe(422);
  });

  it('is an animation of 60 frames of 1080 × 1080', async () => {
    const size = { width: 1080, height: 1080 };
    const { data } = await stored(gifOfFrames(size, size, flatGifData(1080 ** 2), 60));
    expect(data).toMatchObject(size);
  });

  it('has the SHA-256 of the sent and of the stored bytes on its row', async () => {
    const photo = await phonePhoto();
    const { data, object } = await stored(photo);
    const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
    expect(
      await test.database.query<unknown>(
        'SELECT sha256_sent AS sent, sha256_stored AS stored, size FROM chat_images WHERE id = $1',
        [data.id],
      ),
    ).toEqual([{ sent: digest(photo), stored: digest(object), size: object.length }]);
  });
});

describe('a motion photo, where UPLOAD_MAX_FILE_MIB is 25', () => {
  const MIB = 1024 * 1024;
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start({ UPLOAD_MAX_FILE_MIB: '25' });
  });

  afterAll(() => test.stop());

  const refusal = async (bytes: Buffer): Promise<unknown> => {
    const response = await test.upload(bytes);
    return [response.status, await response.json()];
  };

  it('is stored without its film, which does not count', async () => {
    const photo = await phonePhoto();
    const film = Buffer.concat([Buffer.from('\0\0\0\x18ftypmp42'), Buffer.alloc(20 * MIB, 'film')]);
    const response = await test.upload(Buffer.concat([photo, film]));
    expect(response.status).toBe(200);
    const { data } = (await response.json()) as UploadedChatImageResponseDto;
    const object = Buffer.from(await (await fetch(data.signed_url)).arrayBuffer());
    expect(data.size).toBe(object.length);
    expect(object.length).toBeLessThanOrEqual(photo.length);
    expect((await pixels(object)).equals(await pixels(photo))).toBe(true);
  });

  it('is refused when its picture has more than 10 MiB, or the file more than 25', async () => {
    const large = await sharp(randomBytes(1950 * 1900 * 3), {
      raw: { width: 1950, height: 1900, channels: 3 },
    })
      .png({ compressionLevel: 0 })
      .toBuffer();
    expect([large.length > 10 * MIB, large.length < 12 * MIB]).toEqual([true, true]);
    const tooLarge = [413, expect.objectContaining({ error_code: 'FILE_TOO_LARGE' })];
    expect(await refusal(large)).toEqual(tooLarge);
    expect(await refusal(Buffer.alloc(25 * MIB + 1))).toEqual(tooLarge);
    expect(await test.database.query('SELECT FROM chat_images WHERE size > 10485760')).toEqual([]);
  });
});
