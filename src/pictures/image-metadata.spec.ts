import { beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { readdirSync, readFileSync } from 'node:fs';
import sharp, { type Metadata, type Sharp } from 'sharp';
import type { ImageFormat } from './image-format.js';
import { inspect } from './image-inspector.js';
import { ImageLimitError, MalformedImageError, withoutMetadata as clean } from './image-metadata.js';
import { PictureError } from './picture-error.js';

const withoutMetadata = (bytes: Buffer, format: ImageFormat): Buffer => clean(bytes, format).bytes;

const CORPUS = 'test/images/corpus';
const FIXTURES = readdirSync(CORPUS).filter((name) => !name.endsWith('.md'));
const PHOTOGRAPH = readFileSync('test/images/phone-photo.jpg');

/** Names of makers, models and a person, and names of metadata blocks, that are in the corpus. */
const IDENTIFYING =
  /Apple|iPhone|HTC|Nokia|NIKON|Nikon|Canon|PowerShot|EOS|SONY|Sony|KODAK|Kodak|FUJIFILM|FinePix|Polaroid|OLYMPUS|Samsung|LG Elec|Lumia|Jane Roe|Room 7|xpacket|ns\.adobe|Photoshop|8BIM|tEXt|iTXt|zTXt|tIME/;

const picture = (): Sharp => sharp(PHOTOGRAPH).resize(60, 40, { fit: 'fill' });
const told = (image: Sharp): Sharp =>
  image
    .withExif({
      IFD0: { Make: 'Nokia', Model: 'Lumia 820', Artist: 'Dr. Jane Roe' },
      IFD3: { GPSLatitudeRef: 'N', GPSLatitude: '51/1 30/1 3230/100' },
    })
    .withXmp('<x:xmpmeta xmlns:x="adobe:ns:meta/">Dr. Jane Roe, Room 7</x:xmpmeta>');
const frames = (): Sharp =>
  sharp(Buffer.concat([0, 90, 180].map((shade) => Buffer.alloc(20 * 16 * 4, shade))), {
    raw: { width: 20, height: 48, channels: 4, pageHeight: 16 },
  });

/** Pictures that are not in the corpus, made with sharp. */
const MADE: Readonly<Record<string, () => Sharp>> = {
  'baseline with metadata.jpg': () => told(picture().jpeg()),
  'progressive with metadata.jpg': () => told(picture().jpeg({ progressive: true })),
  'mozjpeg scans.jpg': () => told(picture().jpeg({ mozjpeg: true })),
  'full chroma.jpg': () => told(picture().jpeg({ chromaSubsampling: '4:4:4' })),
  'grey.jpg': () => told(picture().greyscale().jpeg()),
  'cmyk with profile.jpg': () => told(picture().withIccProfile('cmyk').jpeg()),
  'wide gamut.jpg': () => told(picture().withIccProfile('p3').jpeg()),
  'rotated by its tag.jpg': () => told(picture().jpeg()).withMetadata({ orientation: 6 }),
  'true colour.png': () => told(picture().png()),
  'wide gamut.png': () => told(picture().withIccProfile('p3').png()),
  'sixteen bits.png': () => told(picture().toColourspace('rgb16').png()),
  'sixteen bits grey.png': () => told(picture().toColourspace('grey16').png()),
  'interlaced.png': () => told(picture().png({ progressive: true })),
  'palette with transparency.png': () => told(picture().ensureAlpha(0.5).png({ palette: true, colours: 16 })),
  'one bit.png': () => told(picture().threshold().png({ palette: true, colours: 2 })),
  'grey with alpha.png': () => told(picture().greyscale().ensureAlpha(0.3).png()),
  'rotated by its tag.png': () => told(picture().png()).withMetadata({ orientation: 8 }),
  'lossy.webp': () => told(picture().webp()),
  'lossless.webp': () => told(picture().webp({ lossless: true })),
  'lossy with alpha.webp': () => told(picture().ensureAlpha(0.5).webp()),
  'wide gamut.webp': () => told(picture().withIccProfile('p3').webp()),
  'animated.webp': () => told(frames().webp({ loop: 2, delay: [50, 60, 70] })),
  'rotated by its tag.webp': () => told(picture().webp()).withMetadata({ orientation: 5 }),
  'one frame.gif': () => picture().gif(),
  'animated.gif': () => frames().gif({ loop: 2, delay: [50, 60, 70] }),
};

const formatOf = (name: string): ImageFormat => {
  const extension = name.slice(name.lastIndexOf('.') + 1);
  return extension === 'jpg' ? 'jpeg' : (extension as ImageFormat);
};

const bytesOf = (name: string): Promise<Buffer> | Buffer => {
  const make = MADE[name];
  if (make) return make().toBuffer();
  return readFileSync(name.startsWith('phone') ? `test/images/${name}` : `${CORPUS}/${name}`);
};

/** Every pixel of every frame, as stored in the file. */
const pixelsOf = async (bytes: Buffer, { depth }: Metadata): Promise<{ data: Buffer; info: object }> => {
  const image = sharp(bytes, { animated: true });
  const raw = depth === 'ushort' ? image.toColourspace('rgb16').raw({ depth }) : image.raw();
  const { data, info } = await raw.toBuffer({ resolveWithObject: true });
  return { data, info };
};

const shownBy = (metadata: Metadata): object => {
  const { format, width, height, space, channels, depth, isProgressive, hasAlpha, chromaSubsampling } =
    metadata;
  const { pages, pageHeight, delay, loop, hasProfile, isPalette, bitsPerSample, background } = metadata;
  return {
    ...{ format, width, height, space, channels, depth, isProgressive, hasAlpha, chromaSubsampling },
    ...{ pages, pageHeight, delay, loop, hasProfile, isPalette, bitsPerSample, background },
    orientation: metadata.orientation ?? 1,
  };
};

const NAMES = ['phone-photo.jpg', 'phone-photo-rotated.jpg', ...FIXTURES, ...Object.keys(MADE)];

describe('withoutMetadata', () => {
  it('is tested on more than 60 files', () => expect(NAMES.length).toBeGreaterThan(60));

  describe.each(NAMES)('of %s', (name) => {
    let before: Buffer;
    let after: Buffer;
    let metadata: Metadata;
    beforeAll(async () => {
      before = await bytesOf(name);
      after = withoutMetadata(before, formatOf(name));
      metadata = await sharp(after, { animated: true }).metadata();
    });

    it('keeps every pixel and the way the picture is shown', async () => {
      const original = await sharp(before, { animated: true }).metadata();
      expect(shownBy(metadata)).toEqual(shownBy(original));
      const [expected, actual] = [await pixelsOf(before, original), await pixelsOf(after, metadata)];
      expect(actual.info).toEqual(expected.info);
      expect(actual.data.equals(expected.data)).toBe(true);
    });

    it('leaves no identifying metadata', () => {
      expect(metadata).not.toMatchObject({ xmp: expect.anything() });
      expect(metadata).not.toMatchObject({ iptc: expect.anything() });
      expect(metadata.comments).toBeUndefined();
      // Only the orientation tag may remain, in a JPEG with its prefix.
      const { orientation = 1 } = metadata;
      expect(metadata.exif?.length ?? 0).toBe(orientation === 1 ? 0 : metadata.format === 'jpeg' ? 32 : 26);
      expect(after.toString('latin1')).not.toMatch(IDENTIFYING);
    });

    it('changes nothing when it runs again', () => {
      expect(withoutMetadata(after, formatOf(name)).equals(after)).toBe(true);
    });
  });

  it('is tested on files that do have identifying metadata', async () => {
    const telling = await Promise.all(
      NAMES.map(async (name) => IDENTIFYING.test((await bytesOf(name)).toString('latin1'))),
    );
    expect(telling.filter(Boolean).length).toBeGreaterThan(40);
  });
});

describe('withoutMetadata of hostile bytes', () => {
  const SEEDS: readonly (readonly [ImageFormat, Buffer])[] = [
    ...[
      'orientation-6.jpg',
      'restart-interval.jpg',
      'animated.png',
      'interlaced.gif',
      'animated-mixed.webp',
    ].map((name) => [formatOf(name), readFileSync(`${CORPUS}/${name}`)] as const),
    ['gif', readFileSync(`${CORPUS}/animated-local-palettes.gif`)],
  ];

  const survives = (bytes: Buffer, format: ImageFormat): void => {
    try {
      expect(withoutMetadata(bytes, format).length).toBeLessThanOrEqual(bytes.length + 64);
    } catch (error) {
      if (!(error instanceof ImageLimitError)) expect(error).toBeInstanceOf(MalformedImageError);
    }
  };
  const seed = 20_240;

  it('returns a picture or a known error for any changed bytes', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...SEEDS),
        fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.integer({ min: 0, max: 255 })), {
          minLength: 1,
          maxLength: 8,
        }),
        fc.boolean(),
        ([format, original], changes, early) => {
          const bytes = Buffer.from(original);
          const reach = early ? Math.min(400, bytes.length) : bytes.length;
          for (const [place, value] of changes) bytes[Math.floor(place * (reach - 1))] = value;
          survives(bytes, format);
        },
      ),
      { seed, numRuns: 3000 },
    );
  });

  it('returns a picture or a known error for inserted and deleted bytes', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...SEEDS),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.integer({ min: 0, max: 40 }),
        fc.uint8Array({ maxLength: 40 }),
        ([format, original], place, cut, inserted) => {
          const at = Math.floor(place * original.length);
          survives(Buffer.concat([original.subarray(0, at), inserted, original.subarray(at + cut)]), format);
        },
      ),
      { seed, numRuns: 1500 },
    );
  });

  it('returns a picture or a known error for random bytes after a signature', () => {
    const starts = {
      jpeg: 'ffd8ff',
      png: '89504e470d0a1a0a0000000d49484452',
      gif: '474946383961',
      webp: '52494646',
    };
    fc.assert(
      fc.property(
        fc.constantFrom('jpeg', 'png', 'gif', 'webp'),
        fc.boolean(),
        fc.uint8Array({ maxLength: 200 }),
        (format, signed, rest) =>
          survives(Buffer.concat([Buffer.from(signed ? starts[format] : '', 'hex'), rest]), format),
      ),
      { seed, numRuns: 1500 },
    );
  });

  it.each(SEEDS.map(([format, bytes], index) => [format, index, bytes] as const))(
    'refuses a truncated %s, or leaves it to the decoder (%d)',
    async (format, _index, bytes) => {
      const whole = withoutMetadata(bytes, format);
      const accepted: unknown[] = [];
      // The end itself is written anew.
      const end = { jpeg: 2, gif: 1, png: 12, webp: 0 }[format];
      for (let length = 0; length < whole.length - end; length += 1 + Math.floor(whole.length / 200)) {
        try {
          await inspect(withoutMetadata(whole.subarray(0, length), format), format);
          accepted.push(length);
        } catch (error) {
          if (!(error instanceof PictureError)) expect(error).toBeInstanceOf(MalformedImageError);
        }
      }
      expect(accepted).toEqual([]);
    },
  );

  // The limit is generous, as test machines are busy. Time that is not linear would be minutes.
  it.each([
    ['jpeg', 'stuffed zeros', Buffer.from('ff00', 'hex')],
    ['jpeg', 'stuffed zeros far apart', Buffer.from(`ff00${'11'.repeat(17)}`, 'hex')],
    ['jpeg', 'fill bytes', Buffer.from('ff', 'hex')],
    ['jpeg', 'empty tables', Buffer.from('ffc40002', 'hex')],
    ['gif', 'empty extensions', Buffer.from('21fe00', 'hex')],
    ['png', 'empty chunks', Buffer.alloc(12)],
    ['webp', 'empty chunks', Buffer.alloc(8)],
  ] as const)('needs linear time for a %s of 4 MiB of %s', (format, _what, unit) => {
    const seedOf = SEEDS.find(([of]) => of === format)?.[1] ?? Buffer.alloc(0);
    const startLength = {
      jpeg: seedOf.lastIndexOf('ffda', undefined, 'hex') + 10,
      gif: 13,
      png: 33,
      webp: 30,
    }[format];
    const bytes = Buffer.concat([seedOf.subarray(0, startLength), Buffer.alloc(4 * 1024 * 1024, unit)]);
    if (format === 'webp') bytes.writeUInt32LE(bytes.length - 8, 4);
    const start = performance.now();
    survives(bytes, format);
    expect(performance.now() - start).toBeLessThan(5000);
  });
});
