import { beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import {
  colourProfile,
  jpegSegment,
  jpegWithSegments,
  noise,
  plainWebp,
  png,
  pngChunk,
  pngProfile,
  webp,
  webpChunk,
} from '../../../test/support/hostile-pictures.js';
import { plainProfile } from './colour-profile.js';
import { ImageLimitError } from './image-limit-error.js';
import { jpegWithoutMetadata } from './jpeg.js';
import { pngWithoutMetadata } from './png.js';
import { webpWithoutMetadata } from './webp.js';

const SERIAL = 'C02XJ0AAJGH5';
const NAME = 'Display of Jane Roe';
const WIDTH = 16;

const data = (type: string, content: string | Buffer = NAME): Buffer =>
  Buffer.concat([Buffer.from(`${type}\0\0\0\0`), Buffer.from(content as string, 'latin1')]);

/** A profile as a display writes it: its maker, model, serial number and calibration, beside its colours. */
const ofDisplay = (): Buffer => {
  const profile = colourProfile([
    ['desc', data('mluc', `\0\0\0\x01\0\0\0\x0cenUS\0\0\0\x13\0\0\0\x1c${NAME}`)],
    ['cprt', data('text')],
    ['dscm', 'desc'],
    ['mmod', data('mmod', `\0\0\x06\x10${SERIAL}`)],
    ['vcgt', data('vcgt', `\0\0\0\x01${NAME}`)],
    ['ndin', data('ndin')],
    ['meta', data('dict', SERIAL)],
    ['calt', data('dtim')],
  ]);
  profile.write('appl', 4, 'latin1');
  profile.fill(7, 24, 36);
  profile.write('APPL', 40, 'latin1');
  profile.fill(7, 44, 64);
  profile.write('appl', 80, 'latin1');
  profile.fill(7, 84, 128);
  return profile;
};

/** The colours of a picture with this profile, converted to sRGB. */
async function colours(profile: Buffer): Promise<Buffer> {
  const pixels = Buffer.from(Array.from({ length: WIDTH * WIDTH * 3 }, (_, index) => (index * 37) % 256));
  const plain = await sharp(pixels, { raw: { width: WIDTH, height: WIDTH, channels: 3 } })
    .png()
    .toBuffer();
  const IHDR_END = 33;
  const picture = Buffer.concat([plain.subarray(0, IHDR_END), pngProfile(profile), plain.subarray(IHDR_END)]);
  return sharp(picture).raw().toBuffer();
}

const profileOf = async (picture: Buffer): Promise<Buffer> => {
  const { icc } = await sharp(picture).metadata();
  if (!icc) throw new Error('The picture has no profile.');
  return icc;
};

const cleaned = (profile: Buffer): Buffer => {
  const plain = plainProfile(profile);
  if (!plain) throw new Error('The profile is dropped.');
  return plain;
};

const tagsOf = (profile: Buffer): string[] =>
  Array.from({ length: profile.readUInt32BE(128) }, (_, index) =>
    profile.toString('latin1', 132 + index * 12, 136 + index * 12),
  );

describe('plainProfile', () => {
  let real: Readonly<Record<string, Buffer>>;
  beforeAll(async () => {
    const [p3, srgb, cmyk] = await Promise.all(
      ['p3', 'srgb', 'cmyk'].map(async (name) =>
        profileOf(await noise(8, 8).withIccProfile(name).jpeg().toBuffer()),
      ),
    );
    const hp = await profileOf(readFileSync('test/images/corpus/exif-with-a-loop.jpg'));
    if (!p3 || !srgb || !cmyk) throw new Error('No profile was written.');
    real = { p3, srgb, cmyk, hp, display: ofDisplay() };
  });

  it('removes serial number, name and calibration of a display, and its header fields', () => {
    const profile = ofDisplay();
    const plain = cleaned(profile);
    expect(plain).toHaveLength(profile.length);
    for (const secret of [
      SERIAL,
      NAME,
      'Jane',
      'appl',
      'APPL',
      'mmod',
      'vcgt',
      'ndin',
      'dscm',
      'dict',
      '\x07',
    ])
      expect(plain.includes(secret, 0, 'latin1')).toBe(false);
    expect(tagsOf(plain)).toEqual([
      ...['wtpt', 'rXYZ', 'gXYZ', 'bXYZ', 'rTRC', 'gTRC', 'bTRC', 'desc', 'cprt'],
    ]);
  });

  it.each(['p3', 'srgb', 'hp', 'display'])('keeps the colours of the profile %s', async (name) => {
    const profile = real[name] ?? Buffer.alloc(0);
    const before = await colours(profile);
    expect((await colours(cleaned(profile))).equals(before)).toBe(true);
    // The profile does change colours.
    if (name !== 'srgb' && name !== 'hp')
      expect((await colours(Buffer.alloc(200))).equals(before)).toBe(false);
  });

  it('keeps the colours of a profile for print, without its measurements', async () => {
    const profile = real.cmyk ?? Buffer.alloc(0);
    const plain = cleaned(profile);
    expect(tagsOf(plain)).toEqual([
      ...['desc', 'cprt', 'wtpt', 'A2B1', 'A2B0', 'A2B2', 'B2A1', 'B2A0', 'B2A2'],
    ]);
    expect(plain.subarray(424, 524).every((byte) => byte === 0)).toBe(true);
    expect(plain.subarray(564, 728).every((byte) => byte === 0)).toBe(true);
    expect(plain.subarray(215_560).every((byte) => byte === 0)).toBe(true);
    const picture = await noise(48, 32, 60).withIccProfile('cmyk').jpeg().toBuffer();
    const shown = (bytes: Buffer): Promise<Buffer> => sharp(bytes).toColourspace('srgb').raw().toBuffer();
    const stored = jpegWithoutMetadata(picture).bytes;
    expect((await profileOf(stored)).equals(plain)).toBe(true);
    expect((await shown(stored)).equals(await shown(picture))).toBe(true);
  });

  it('keeps what a needed tag needs of bytes that it shares with another tag', async () => {
    const shared = colourProfile([
      ['mmod', 'rXYZ'],
      ['cprt', 'gTRC'],
      ['desc', 'wtpt'],
    ]);
    expect((await colours(cleaned(shared))).equals(await colours(shared))).toBe(true);
  });

  it('removes bytes between the tags, behind them, and in a tag behind its own end', () => {
    const hidden = colourProfile([
      ['chad', data('sf32', Buffer.concat([Buffer.alloc(36, 1), Buffer.from(SERIAL)]))],
      ['kTRC', data('para', `\0\0ab\0\x02\0\0${SERIAL}`)],
      ['A2B0', data('what', SERIAL)],
      ['A2B1', data('mAB ', Buffer.concat([Buffer.of(3, 3, 65, 65), Buffer.alloc(20), Buffer.from(SERIAL)]))],
    ]);
    const plain = cleaned(Buffer.concat([hidden, Buffer.from(SERIAL)]));
    expect(plain.includes(SERIAL) || plain.includes('ab') || plain.includes('AA')).toBe(false);
  });

  it('keeps the elements of a table from device to connection space', () => {
    const curve = data('para', Buffer.from('00000000000200000', 'hex'));
    const elements = Buffer.concat([curve, curve, curve]);
    const table = Buffer.concat([
      Buffer.of(2, 2, 2, ...Array<number>(13).fill(0)),
      Buffer.of(1, 0, 0, 0),
      Buffer.alloc(24, 9),
    ]);
    const [b, clut, a] = [32, 32 + elements.length, 32 + elements.length + table.length];
    const offsets = Buffer.alloc(24);
    offsets.set([3, 3], 0);
    for (const [index, offset] of [b, 0, 0, clut, a].entries()) offsets.writeUInt32BE(offset, 4 + index * 4);
    const profile = colourProfile([
      ['A2B0', data('mAB ', Buffer.concat([offsets, elements, table, elements]))],
    ]);
    const at = profile.indexOf('mAB ');
    expect(cleaned(profile).subarray(at).equals(profile.subarray(at))).toBe(true);
  });

  it('drops what no decoder can use', () => {
    const profile = ofDisplay();
    for (const bytes of [
      Buffer.alloc(0),
      Buffer.from(SERIAL),
      profile.subarray(0, 200),
      Buffer.concat([profile.subarray(0, 36), Buffer.from('none'), profile.subarray(40)]),
      Buffer.concat([profile.subarray(0, 128), Buffer.alloc(4), profile.subarray(132)]),
    ])
      expect(plainProfile(bytes)).toBeUndefined();
  });

  it('refuses more than 100 tags, which some decoders show and others do not', () => {
    const tags = Array.from({ length: 94 }, () => ['what', 'rXYZ'] as const);
    expect(() => plainProfile(colourProfile(tags))).toThrow(ImageLimitError);
    expect(tagsOf(cleaned(colourProfile(tags.slice(1))))).toHaveLength(7);
  });

  it('keeps no byte that it would remove the second time, whatever the bytes are', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('p3', 'hp', 'display'),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 12 }),
        fc.nat(400),
        (name, changes, cut) => {
          const profile = Buffer.from(real[name] ?? Buffer.alloc(0));
          for (const [at, value] of changes) profile[at % 420] = value;
          let plain: Buffer | undefined;
          try {
            plain = plainProfile(profile.subarray(0, profile.length - cut));
          } catch (error) {
            expect(error).toBeInstanceOf(ImageLimitError);
            return;
          }
          if (!plain) return;
          expect(plain).toHaveLength(profile.length - cut);
          expect(plain.subarray(84, 128).every((byte) => byte === 0)).toBe(true);
          expect(cleaned(plain).equals(plain)).toBe(true);
        },
      ),
      { seed: 20_240, numRuns: 1500 },
    );
  });
});

describe('the profile in a picture', () => {
  const SMALL = { width: 4, height: 4, depth: 8 } as const;
  const clean = {
    jpeg: (bytes: Buffer) => jpegWithoutMetadata(bytes).bytes,
    png: (bytes: Buffer) => pngWithoutMetadata(bytes).bytes,
    webp: (bytes: Buffer) => webpWithoutMetadata(bytes).bytes,
  };
  const segments = (profile: Buffer, cut: number): Buffer[] =>
    [profile.subarray(0, cut), profile.subarray(cut)].map((part, index) =>
      jpegSegment(0xe2, Buffer.concat([Buffer.from('ICC_PROFILE\0'), Buffer.of(index + 1, 2), part])),
    );
  const iccp = (compressed: Buffer): Buffer =>
    png(SMALL, { before: pngChunk('iCCP', Buffer.concat([Buffer.from('icc\0\0'), compressed])) });

  it('of a JPEG is made plain across its segments', async () => {
    const picture = await noise(16, 16).jpeg().toBuffer();
    const stored = clean.jpeg(jpegWithSegments(picture, ...segments(ofDisplay(), 170)));
    expect((await profileOf(stored)).equals(cleaned(ofDisplay()))).toBe(true);
    expect(stored.includes('Jane')).toBe(false);
  });

  it('of a WebP is made plain', async () => {
    const image = (await noise(1, 1).webp({ lossless: true }).toBuffer()).subarray(12);
    const odd = Buffer.concat([ofDisplay(), Buffer.alloc(ofDisplay().length % 2 === 0 ? 1 : 0)]);
    const stored = clean.webp(webp(0x20, Buffer.concat([webpChunk('ICCP', odd), image])));
    expect((await profileOf(stored)).equals(cleaned(odd))).toBe(true);
    const useless = clean.webp(webp(0x20, Buffer.concat([webpChunk('ICCP', Buffer.from(NAME)), image])));
    expect(useless.equals(webp(0, image))).toBe(true);
    expect(clean.webp(plainWebp(image)).equals(plainWebp(image))).toBe(true);
  });

  it.each([
    ['a whole stream', (stream: Buffer): Buffer => stream],
    ['a stream without its checksum', (stream: Buffer): Buffer => stream.subarray(0, -4)],
    [
      'a stream with a wrong checksum',
      (stream: Buffer): Buffer => Buffer.concat([stream.subarray(0, -4), Buffer.alloc(4, 1)]),
    ],
  ])('of a PNG is made plain in %s', async (_what, change) => {
    const sent = iccp(change(deflateSync(ofDisplay())));
    expect((await profileOf(sent)).includes(SERIAL)).toBe(true);
    const stored = clean.png(sent);
    expect((await profileOf(stored)).equals(cleaned(ofDisplay()))).toBe(true);
    expect(clean.png(stored).equals(stored)).toBe(true);
  });

  it('of a PNG ends at its own length', async () => {
    const plain = cleaned(ofDisplay());
    const stored = clean.png(iccp(deflateSync(Buffer.concat([plain, Buffer.from(SERIAL)]))));
    expect((await profileOf(stored)).equals(plain)).toBe(true);
  });

  it('of a PNG stays as it was compressed when it is plain already', () => {
    const sent = iccp(deflateSync(cleaned(ofDisplay()), { level: 1 }));
    expect(clean.png(sent).equals(sent)).toBe(true);
  });
});
