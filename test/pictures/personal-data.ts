/** Planted into every kind of metadata. No stored picture may hold any of it, in whatever encoding. */
export const PERSON = 'Dr. Jane Roe, Room 7391';

/** A degree of GPS, as the numerator of a rational: 48.1371589. */
const DEGREE = 481_371_589;

function uint32(value: number, order: 'II' | 'MM'): Buffer {
  const bytes = Buffer.alloc(4);
  if (order === 'II') bytes.writeUInt32LE(value);
  else bytes.writeUInt32BE(value);
  return bytes;
}

/** EXIF with the person as artist, an orientation and GPS: a TIFF without a prefix. */
export function personalExif(order: 'II' | 'MM', orientation: number): Buffer {
  const ASCII = 2;
  const SHORT = 3;
  const LONG = 4;
  const RATIONAL = 5;
  const uint16 = (value: number): Buffer =>
    order === 'II' ? Buffer.of(value & 0xff, value >> 8) : Buffer.of(value >> 8, value & 0xff);
  const entry = (tag: number, type: number, count: number, value: Buffer): Buffer =>
    Buffer.concat([uint16(tag), uint16(type), uint32(count, order), value, Buffer.alloc(4 - value.length)]);
  const person = Buffer.from(`${PERSON}\0`, 'latin1');
  const [FIRST, ENTRIES] = [8, 3];
  const texts = FIRST + 2 + ENTRIES * 12 + 4;
  const gps = texts + person.length;
  const degrees = gps + 2 + 2 * 12 + 4;
  return Buffer.concat([
    Buffer.from(order),
    uint16(42),
    uint32(FIRST, order),
    uint16(ENTRIES),
    entry(0x0112, SHORT, 1, uint16(orientation)),
    entry(0x013b, ASCII, person.length, uint32(texts, order)),
    entry(0x8825, LONG, 1, uint32(gps, order)),
    uint32(0, order),
    person,
    uint16(2),
    entry(1, ASCII, 2, Buffer.from('N\0')),
    entry(2, RATIONAL, 3, uint32(degrees, order)),
    uint32(0, order),
    ...[DEGREE, 1e7, 0, 1, 0, 1].map((value) => uint32(value, order)),
  ]);
}

export const personalXmp = (): Buffer =>
  Buffer.from(`<x:xmpmeta xmlns:x="adobe:ns:meta/"><creator>${PERSON}</creator></x:xmpmeta>`);

/** A Photoshop block with IPTC: the person as by-line. */
export const personalIptc = (): Buffer => {
  const record = Buffer.concat([Buffer.of(0x1c, 2, 80, 0, PERSON.length), Buffer.from(PERSON)]);
  return Buffer.concat([
    Buffer.from('Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0', 'latin1'),
    Buffer.of(record.length),
    record,
  ]);
};

const TRACES: readonly Buffer[] = [
  ...['Jane Roe', 'Room 7391'].flatMap((part) => [
    Buffer.from(part),
    Buffer.from(part, 'utf16le'),
    Buffer.from(part, 'utf16le').swap16(),
  ]),
  uint32(DEGREE, 'II'),
  uint32(DEGREE, 'MM'),
];

/** Whether any personal data are in the bytes. */
export const isPersonal = (bytes: Buffer): boolean => TRACES.some((trace) => bytes.includes(trace));
