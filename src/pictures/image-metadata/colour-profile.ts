import { ImageLimitError, TOO_COMPLEX } from './image-limit-error.js';
import { IMAGE_LIMITS } from './image-limits.js';

const HEADER_LENGTH = 128;
/** The tag table: a count, and a signature, an offset and a length for each tag. */
const TABLE = HEADER_LENGTH + 4;
const TAG_LENGTH = 12;
/** Signature of the type multiProcessElementsType. */
const MULTI_PROCESS_ELEMENTS = 'mpet';

/**
 * Kept fields of the header: length and version; class, colour space and connection space; signature; rendering intent and
 * illuminant.
 */
const HEADER_FIELDS: readonly Range[] = [
  [0, 4],
  [8, 10],
  [12, 24],
  [36, 40],
  [64, 80],
];

/** Tags with which decoders compute colours. */
const COLOUR_TAGS: ReadonlySet<string> = new Set([
  ...['wtpt', 'chad', 'cicp', 'rXYZ', 'gXYZ', 'bXYZ', 'rTRC', 'gTRC', 'bTRC', 'kTRC'],
  ...['A2B0', 'A2B1', 'A2B2', 'B2A0', 'B2A1', 'B2A2'],
]);
/** Tags that a profile must have. They are kept as empty texts. */
const TEXT_TAGS: ReadonlySet<string> = new Set(['desc', 'cprt']);

/** Empty texts of each type, without zeros at the end. In a multilingual text, a record has twelve bytes. */
const EMPTY_TEXTS: Readonly<Record<string, readonly number[]>> = {
  text: [],
  desc: [...Array<number>(11).fill(0), 1],
  mluc: [...Array<number>(15).fill(0), 12],
};

/** From (inclusive) and to (exclusive). */
type Range = readonly [from: number, to: number];
type Tag = { readonly name: string; readonly data: number; readonly length: number; readonly end: number };

/**
 * A copy of a colour profile (ICC.1:2022) of the same length, with only what colours need. All other bytes are zero, so all
 * offsets stay. Tags that share bytes keep what one of them needs.
 *
 * Kept: the header's length, version, class, colour spaces, rendering intent and illuminant; white point, primaries,
 * adaptation, curves and tables, each only as far as its type reaches. Description and copyright are kept as empty texts.
 * Every other tag leaves the tag table: serial numbers and names of displays (`mmod`, `dscm`), calibrations (`vcgt`,
 * `ndin`), measurements, private tags. So do creation date, maker, model, creator, platform and profile ID in the header.
 *
 * @returns `undefined` when no decoder can use the profile
 * @throws ImageLimitError for a profile that costs far more than any real one
 */
export function plainProfile(profile: Buffer): Buffer | undefined {
  if (profile.length < TABLE || profile.toString('latin1', 36, 40) !== 'acsp') return undefined;
  const count = profile.readUInt32BE(HEADER_LENGTH);
  const end = Math.min(profile.length, profile.readUInt32BE(0));
  if (count === 0 || TABLE + count * TAG_LENGTH > end) return undefined;
  if (count > IMAGE_LIMITS.profileTags) {
    throw new ImageLimitError(
      TOO_COMPLEX,
      `The colour profile has more than ${IMAGE_LIMITS.profileTags} tags.`,
    );
  }
  const tags = Array.from({ length: count }, (_, index) => tagAt(profile, TABLE + index * TAG_LENGTH));
  for (const tag of tags) expectNoSteps(profile, tag);

  const plain = Buffer.alloc(profile.length);
  const keep = (from: number, to: number): void => {
    profile.copy(plain, from, from, Math.min(to, end));
  };
  // First the texts, as colour tags may share their bytes.
  for (const tag of tags) {
    if (!TEXT_TAGS.has(tag.name) || !isInside(tag, end)) continue;
    keep(tag.data, tag.data + 4);
    const text = EMPTY_TEXTS[typeOf(profile, tag)] ?? [];
    if (text.length <= tag.length) plain.set(text.slice(4), tag.data + 4);
  }
  for (const tag of tags) {
    if (!COLOUR_TAGS.has(tag.name) || !isInside(tag, end)) continue;
    for (const [from, to] of usedBytes(profile, tag)) keep(Math.min(from, tag.end), Math.min(to, tag.end));
  }
  // Last the header and the table, which no data may overwrite.
  plain.fill(0, 0, TABLE + count * TAG_LENGTH);
  for (const [from, to] of HEADER_FIELDS) keep(from, to);
  const entries = tags.flatMap((tag, index) => {
    if (COLOUR_TAGS.has(tag.name) || TEXT_TAGS.has(tag.name)) {
      const entry = TABLE + index * TAG_LENGTH;
      return [profile.subarray(entry, entry + TAG_LENGTH)];
    }
    return isInside(tag, end) ? [] : [OUTSIDE];
  });
  plain.writeUInt32BE(entries.length, HEADER_LENGTH);
  for (const [index, entry] of entries.entries()) plain.set(entry, TABLE + index * TAG_LENGTH);
  return plain;
}

/** Entry of a tag outside of the profile. Some decoders refuse a profile with such a tag, and must still do so. */
const OUTSIDE = Buffer.alloc(TAG_LENGTH, 0xff);

function tagAt(profile: Buffer, entry: number): Tag {
  const data = profile.readUInt32BE(entry + 4);
  const length = profile.readUInt32BE(entry + 8);
  return { name: profile.toString('latin1', entry, entry + 4), data, length, end: data + length };
}

const isInside = ({ length, end }: Tag, profileEnd: number): boolean => length >= 4 && end <= profileEnd;

const typeOf = (profile: Buffer, { data }: Tag): string => profile.toString('latin1', data, data + 4);

/**
 * Refuses multi-process elements: chains of steps computed for each pixel. A few hundred bytes can contain thousands of
 * steps. A PNG of 256 pixels and 600 bytes took the decoder over 100 s; another PNG took 1.5 GB. No camera, phone or image
 * editor writes such profiles.
 */
function expectNoSteps(profile: Buffer, tag: Tag): void {
  if (tag.data + 4 <= profile.length && typeOf(profile, tag) === MULTI_PROCESS_ELEMENTS) {
    throw new ImageLimitError(TOO_COMPLEX, 'The colour profile has multi-process elements.');
  }
}

/** The bytes of a tag's data that its type defines (ICC.1:2022, 10). Of an unknown type: only its signature. */
function usedBytes(profile: Buffer, tag: Tag): Range[] {
  const { data } = tag;
  const byte = (at: number): number => profile[data + at] ?? 0;
  const uint16 = (at: number): number => byte(at) * 0x100 + byte(at + 1);
  const uint32 = (at: number): number => uint16(at) * 0x10000 + uint16(at + 2);
  const type: Range = [data, data + 4];
  const upTo = (from: number, to: number): Range[] => [type, [data + from, data + to]];
  switch (typeOf(profile, tag)) {
    case 'XYZ ':
      return upTo(8, 20);
    case 'sf32':
      return upTo(8, 44);
    case 'cicp':
      return upTo(8, 12);
    case 'curv':
      return upTo(8, 12 + 2 * uint32(8));
    case 'para':
      return [...upTo(8, 10), [data + 12, data + 12 + 4 * parametersOf(uint16(8))]];
    case 'mft1': {
      const [inputs, outputs, points] = [byte(8), byte(9), byte(10)];
      return [...upTo(8, 11), [data + 12, data + 48 + 256 * (inputs + outputs) + points ** inputs * outputs]];
    }
    case 'mft2': {
      const [inputs, outputs, points] = [byte(8), byte(9), byte(10)];
      const samples = uint16(48) * inputs + points ** inputs * outputs + uint16(50) * outputs;
      return [...upTo(8, 11), [data + 12, data + 52 + 2 * samples]];
    }
    case 'mAB ':
    case 'mBA ':
      return [...upTo(8, 10), [data + 12, data + 32], ...usedElements(profile, tag)];
    default:
      return [type];
  }
}

/** The elements of a lutAToBType or lutBToAType: curves, a matrix and a table, each at its own offset. */
function usedElements(profile: Buffer, tag: Tag): Range[] {
  const { data, end } = tag;
  const [inputs = 0, outputs = 0] = profile.subarray(data + 8, data + 10);
  const isToDevice = typeOf(profile, tag) === 'mBA ';
  const offset = (at: number): number => (data + at + 4 <= end ? profile.readUInt32BE(data + at) : 0);
  const curves = (at: number, channels: number): Range[] => {
    const ranges: Range[] = [];
    let curve = data + at;
    for (let channel = 0; channel < channels && curve + 12 <= end; channel += 1) {
      const used = usedBytes(profile, { name: '', data: curve, length: end - curve, end }).filter(
        ([from]) => from < end,
      );
      const type = profile.toString('latin1', curve, curve + 4);
      if (type !== 'curv' && type !== 'para') break;
      ranges.push(...used);
      curve += Math.ceil((Math.max(...used.map(([, to]) => to)) - curve) / 4) * 4;
    }
    return ranges;
  };
  const [b, matrix, m, clut, a] = [offset(12), offset(16), offset(20), offset(24), offset(28)];
  const ranges: Range[] = [];
  if (b) ranges.push(...curves(b, isToDevice ? inputs : outputs));
  if (matrix) ranges.push([data + matrix, data + matrix + 48]);
  if (m) ranges.push(...curves(m, isToDevice ? inputs : outputs));
  if (clut && data + clut + 20 <= end) {
    const grid = data + clut;
    const points = [...profile.subarray(grid, grid + Math.min(inputs, 16))];
    const samples = points.reduce((product, count) => product * count, outputs);
    ranges.push([grid, grid + 17], [grid + 20, grid + 20 + samples * (profile[grid + 16] === 1 ? 1 : 2)]);
  }
  if (a) ranges.push(...curves(a, isToDevice ? outputs : inputs));
  return ranges;
}

/** The number of parameters of each kind of parametric curve. */
const parametersOf = (kind: number): number => [1, 3, 4, 5, 7][kind] ?? 0;
