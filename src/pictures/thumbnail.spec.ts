import { describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import sharp, { type Sharp } from 'sharp';
import { thumbHashToAverageRGBA, thumbHashToRGBA } from 'thumbhash';
import { phonePhoto } from '../../test/support/pictures.js';
import type { ImageFormat } from './image-format.js';
import { inspect } from './image-inspector.js';
import { makeThumbnail as makeAlone, type Thumbnail, THUMBNAIL_PIXELS } from './thumbnail.js';

type Colour = { readonly r: number; readonly g: number; readonly b: number };

const plain = (width: number, height: number, background: Colour): Sharp =>
  sharp({ create: { width, height, channels: 3, background } });

const RED = { r: 220, g: 30, b: 40 };
const BLUE = { r: 20, g: 60, b: 210 };

/** A picture whose upper left quarter is red, and the rest blue. */
const quartered = async (width = 800, height = 400): Promise<Sharp> =>
  plain(width, height, BLUE).composite([
    {
      input: await plain(width / 2, height / 2, RED)
        .png()
        .toBuffer(),
      left: 0,
      top: 0,
    },
  ]);

/** The colour at a place of a picture, in parts of its sides. */
async function colourAt(bytes: Buffer, x: number, y: number): Promise<number[]> {
  const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
  const at = (Math.floor(y * info.height) * info.width + Math.floor(x * info.width)) * info.channels;
  return [...data.subarray(at, at + info.channels)];
}

function expectColour(found: readonly number[], { r, g, b }: Colour, within = 12): void {
  const off = [r, g, b].map((value, index) => Math.abs(value - (found[index] ?? NaN)));
  expect([found, Math.max(...off) <= within]).toEqual([found, true]);
}

/** What a file says of itself beside its pixels. */
async function metadataOf(bytes: Buffer): Promise<unknown> {
  const { exif, icc, xmp, iptc, orientation, comments, tifftagPhotoshop } = await sharp(bytes).metadata();
  return { exif, icc, xmp, iptc, orientation, comments, tifftagPhotoshop };
}

type MakeThumbnail = (bytes: Buffer, format: ImageFormat) => Promise<Thumbnail>;

/** As an upload makes it: while the picture is decoded, or after it. */
const makeOfUpload: MakeThumbnail = async (bytes, format) =>
  (await inspect(bytes, format, true)).thumbnail ?? makeAlone(bytes, format);

const WAYS: readonly (readonly [string, MakeThumbnail])[] = [
  ['made alone', makeAlone],
  ['made of an upload', makeOfUpload],
];

describe.each(WAYS)('a thumbnail %s', (_way, makeThumbnail) => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('is upright for the orientation %i', async (orientation) => {
    // How a camera stores the picture that is upright with this orientation. sharp mirrors before it turns.
    const stored: Readonly<Record<number, (picture: Sharp) => Sharp>> = {
      1: (picture) => picture,
      2: (picture) => picture.flop(),
      3: (picture) => picture.rotate(180),
      4: (picture) => picture.flip(),
      5: (picture) => picture.flop().rotate(270),
      6: (picture) => picture.rotate(270),
      7: (picture) => picture.flop().rotate(90),
      8: (picture) => picture.rotate(90),
    };
    const upright = await (await quartered()).png().toBuffer();
    const turned = await (stored[orientation] ?? ((picture) => picture))(sharp(upright)).png().toBuffer();
    const photo = await sharp(turned).withMetadata({ orientation }).jpeg({ quality: 95 }).toBuffer();
    const { bytes, width, height } = await makeThumbnail(photo, 'jpeg');
    expect([width, height]).toEqual([640, 320]);
    expectColour(await colourAt(bytes, 0.25, 0.25), RED);
    for (const [x, y] of [
      [0.75, 0.25],
      [0.25, 0.75],
      [0.75, 0.75],
    ] as const)
      expectColour(await colourAt(bytes, x, y), BLUE);
    expect(await metadataOf(bytes)).toEqual({});
  });

  it.each(['jpeg', 'png', 'webp'] as const)(
    'of a Display P3 %s is in sRGB, and names no profile',
    async (format) => {
      // The same numbers are another colour in Display P3, so they have to change.
      const photo = await plain(900, 600, { r: 200, g: 100, b: 50 })
        .withIccProfile('p3')
        .toFormat(format, { quality: 95 })
        .toBuffer();
      const { icc } = await sharp(photo).metadata();
      expect(icc).toBeDefined();
      const { bytes } = await makeThumbnail(photo, format);
      // sharp has converted sRGB to Display P3 when it wrote the photo.
      expectColour(await colourAt(bytes, 0.5, 0.5), { r: 200, g: 100, b: 50 });
      const raw = await sharp(photo, { ignoreIcc: true }).raw().toBuffer();
      expect(Math.abs((raw[0] ?? 0) - 200)).toBeGreaterThan(10);
      expect(await metadataOf(bytes)).toEqual({});
    },
  );

  it('of a CMYK JPEG is in sRGB', async () => {
    const cmyk = await plain(900, 600, RED).toColourspace('cmyk').withIccProfile('cmyk').jpeg().toBuffer();
    expect((await sharp(cmyk).metadata()).space).toBe('cmyk');
    const { bytes, mimeType } = await makeThumbnail(cmyk, 'jpeg');
    expect(mimeType).toBe('image/jpeg');
    expect(await sharp(bytes).metadata()).toMatchObject({ space: 'srgb', channels: 3 });
    expectColour(await colourAt(bytes, 0.5, 0.5), RED, 30);
    expect(await metadataOf(bytes)).toEqual({});
  });

  it('keeps transparency', async () => {
    const picture = await sharp({
      create: { width: 1000, height: 500, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } },
    })
      .composite([{ input: await plain(500, 500, RED).png().toBuffer(), left: 0, top: 0 }])
      .png()
      .toBuffer();
    const { bytes, mimeType } = await makeThumbnail(picture, 'png');
    expect(mimeType).toBe('image/webp');
    const left = await colourAt(bytes, 0.25, 0.5);
    expectColour(left, RED);
    expect([left[3], (await colourAt(bytes, 0.75, 0.5))[3]]).toEqual([255, 0]);
  });

  it.each(['gif', 'webp'] as const)('of an animated %s is its first frame', async (format) => {
    const frames = await Promise.all(
      [RED, BLUE, { r: 0, g: 0, b: 0 }].map((colour) => plain(700, 350, colour).png().toBuffer()),
    );
    const animation = await sharp(frames, { join: { animated: true } })
      .toFormat(format)
      .toBuffer();
    expect((await sharp(animation, { animated: true }).metadata()).pages).toBe(3);
    const { bytes, width, height } = await makeThumbnail(animation, format);
    expect([width, height]).toEqual([640, 320]);
    expect((await sharp(bytes, { animated: true }).metadata()).pages ?? 1).toBe(1);
    expectColour(await colourAt(bytes, 0.5, 0.5), RED);
  });

  it('of a phone photograph has none of its metadata, though the photograph does', async () => {
    const photo = await phonePhoto();
    expect(await metadataOf(photo)).toHaveProperty('exif', expect.any(Buffer));
    const { bytes } = await makeThumbnail(photo, 'jpeg');
    expect(await metadataOf(bytes)).toEqual({});
    // No application segment but JFIF, and no comment.
    const markers = [
      ...(bytes
        .toString('latin1')
        .split('\xff\xda')[0]
        ?.matchAll(/\xff([\xe1-\xef\xfe])/g) ?? []),
    ];
    expect(markers).toEqual([]);
    expect(bytes.length).toBeLessThan(100_000);
  });

  it('of a picture with XMP, in WebP, has none', async () => {
    const xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><secret>GPS</secret></x:xmpmeta>';
    const picture = await plain(900, 600, RED).withXmp(xmp).webp().toBuffer();
    expect(picture.includes('GPS')).toBe(true);
    expect((await makeThumbnail(picture, 'webp')).bytes.includes('GPS')).toBe(false);
  });

  it.each([
    ['small', 30, 20, 30, 20],
    ['of one pixel', 1, 1, 1, 1],
    ['at the limit', THUMBNAIL_PIXELS, 100, 640, 100],
    ['wide', 6400, 10, 640, 1],
    ['high', 10, 6400, 1, 640],
  ])(
    'of a picture that is %s has the right size',
    async (_, width, height, expectedWidth, expectedHeight) => {
      for (const format of ['jpeg', 'png'] as const) {
        const picture = await plain(width, height, RED).toFormat(format).toBuffer();
        const made = await makeThumbnail(picture, format);
        const { width: found, height: foundHeight } = await sharp(made.bytes).metadata();
        expect([made.width, made.height]).toEqual([expectedWidth, expectedHeight]);
        expect([found, foundHeight]).toEqual([expectedWidth, expectedHeight]);
      }
    },
  );
});

describe.each(WAYS)('the hash of a thumbnail %s', (_way, makeThumbnail) => {
  const bytesOf = ({ hash }: Thumbnail): Buffer => Buffer.from(hash, 'base64');

  it.each([
    ['a red picture', RED],
    ['a blue picture', BLUE],
    ['a grey picture', { r: 120, g: 120, b: 120 }],
  ])('of %s decodes to its mean colour', async (_, colour) => {
    const hash = bytesOf(await makeThumbnail(await plain(1200, 900, colour).jpeg().toBuffer(), 'jpeg'));
    const { r, g, b, a } = thumbHashToAverageRGBA(hash);
    expectColour([r * 255, g * 255, b * 255], colour, 12);
    expect(a).toBe(1);
  });

  it('of a photograph is short, and has its shape and about its mean colour', async () => {
    const photo = await phonePhoto();
    const thumbnail = await makeThumbnail(photo, 'jpeg');
    expect(thumbnail.hash.length).toBeLessThan(40);
    const { w, h } = thumbHashToRGBA(bytesOf(thumbnail));
    expect(Math.abs(w / h - 1278 / 720)).toBeLessThan(0.2);
    const { channels } = await sharp(photo).stats();
    const mean = channels.map((channel) => channel.mean);
    const { r, g, b } = thumbHashToAverageRGBA(bytesOf(thumbnail));
    expectColour([r * 255, g * 255, b * 255], { r: mean[0] ?? 0, g: mean[1] ?? 0, b: mean[2] ?? 0 }, 16);
  });

  it('of a transparent picture is short too, and transparent', async () => {
    const picture = await sharp(await readFile('test/images/phone-photo.jpg'))
      .ensureAlpha(0.5)
      .png()
      .toBuffer();
    const thumbnail = await makeThumbnail(picture, 'png');
    expect(thumbnail.hash.length).toBeLessThan(40);
    expect(Math.abs(thumbHashToAverageRGBA(bytesOf(thumbnail)).a - 0.5)).toBeLessThan(0.1);
  });
});

describe('the thumbnail of a decoded picture', () => {
  it.each([
    ['a JPEG', (picture: Sharp) => picture.jpeg(), 'jpeg', true],
    ['a JPEG with a profile', (picture: Sharp) => picture.withIccProfile('p3').jpeg(), 'jpeg', true],
    ['a PNG', (picture: Sharp) => picture.png(), 'png', true],
    ['a WebP', (picture: Sharp) => picture.webp(), 'webp', true],
    ['a CMYK JPEG', (picture: Sharp) => picture.toColourspace('cmyk').jpeg(), 'jpeg', false],
  ] as const)('of %s is made on the way, where it can be', async (_, write, format, isMade) => {
    const bytes = await write(await quartered()).toBuffer();
    const { thumbnail } = await inspect(bytes, format, true);
    expect(thumbnail !== undefined).toBe(isMade);
  });
});
