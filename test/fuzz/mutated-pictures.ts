import fc from 'fast-check';
import { crc32 } from 'node:zlib';

/** A place in a file. Half of the places are near the start, where the structure is. */
type Place = { readonly early: boolean; readonly share: number };

type Mutation =
  | { readonly do: 'flip'; readonly at: Place; readonly mask: number }
  | { readonly do: 'set'; readonly at: Place; readonly bytes: Uint8Array }
  | { readonly do: 'insert'; readonly at: Place; readonly bytes: Uint8Array }
  | { readonly do: 'delete'; readonly at: Place; readonly count: number }
  | { readonly do: 'truncate'; readonly at: Place }
  | { readonly do: 'copy'; readonly at: Place; readonly to: Place; readonly count: number }
  | { readonly do: 'splice'; readonly at: Place; readonly other: number; readonly from: Place }
  | { readonly do: 'chunk twice'; readonly index: number; readonly to: number }
  | { readonly do: 'chunk away'; readonly index: number }
  | { readonly do: 'right checksums' };

const place: fc.Arbitrary<Place> = fc.record({
  early: fc.boolean(),
  share: fc.double({ min: 0, max: 1, noNaN: true }),
});

/** False lengths and sizes, markers, and random bytes. */
const tellingBytes: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.constantFrom(
    ...[
      [0, 0, 0, 0],
      [0xff, 0xff, 0xff, 0xff],
      [0x7f, 0xff, 0xff, 0xff],
      [0xff, 0xff, 0xff, 0x7f],
      [0, 0],
      [0xff, 0xff],
      [0xff, 0xd8],
      [0xff, 0xd9],
      [0xff, 0xda],
      [0xff, 0xd0],
      [0xff, 0xe1, 0, 2],
      [0xff, 0xff, 0xff, 0],
      [0x2c],
      [0x3b],
      [0x21, 0xf9, 4],
    ].map((bytes) => Uint8Array.from(bytes)),
  ),
  fc.uint8Array({ minLength: 1, maxLength: 8 }),
);

const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.record({ do: fc.constant('flip' as const), at: place, mask: fc.integer({ min: 1, max: 255 }) }),
  fc.record({ do: fc.constant('set' as const), at: place, bytes: tellingBytes }),
  fc.record({ do: fc.constant('insert' as const), at: place, bytes: tellingBytes }),
  fc.record({ do: fc.constant('delete' as const), at: place, count: fc.integer({ min: 1, max: 40 }) }),
  fc.record({ do: fc.constant('truncate' as const), at: place }),
  fc.record({
    do: fc.constant('copy' as const),
    at: place,
    to: place,
    count: fc.integer({ min: 1, max: 200 }),
  }),
  fc.record({ do: fc.constant('splice' as const), at: place, other: fc.nat(20), from: place }),
  fc.record({ do: fc.constant('chunk twice' as const), index: fc.nat(12), to: fc.nat(12) }),
  fc.record({ do: fc.constant('chunk away' as const), index: fc.nat(12) }),
  fc.constant({ do: 'right checksums' as const }),
);

export function mutate(original: Buffer, mutations: readonly Mutation[], others: readonly Buffer[]): Buffer {
  let bytes = Buffer.from(original);
  const position = ({ early, share }: Place, length = bytes.length): number =>
    Math.floor(share * (early ? Math.min(length, 300) : length));
  const replace = (from: number, to: number, between: Uint8Array): void => {
    bytes = Buffer.concat([bytes.subarray(0, from), between, bytes.subarray(to)]);
  };
  for (const change of mutations) {
    if (change.do === 'right checksums') {
      for (const chunk of chunksOf(bytes)) rightChecksum(chunk);
      continue;
    }
    if (change.do === 'chunk twice' || change.do === 'chunk away') {
      const chunks = chunksOf(bytes);
      const chunk = chunks[change.index % Math.max(1, chunks.length)];
      if (!chunk) continue;
      if (change.do === 'chunk away') chunks.splice(chunks.indexOf(chunk), 1);
      else chunks.splice(change.to % (chunks.length + 1), 0, chunk);
      bytes = Buffer.concat(chunks);
      continue;
    }
    const at = position(change.at);
    if (change.do === 'flip') bytes[at] = (bytes[at] ?? 0) ^ change.mask;
    else if (change.do === 'set') replace(at, at + change.bytes.length, change.bytes);
    else if (change.do === 'insert') replace(at, at, change.bytes);
    else if (change.do === 'delete') replace(at, at + change.count, Buffer.alloc(0));
    else if (change.do === 'truncate') bytes = bytes.subarray(0, at);
    else if (change.do === 'copy') {
      const to = position(change.to);
      replace(to, to, Buffer.from(bytes.subarray(at, at + change.count)));
    } else {
      const other = others[change.other % others.length] ?? bytes;
      replace(at, bytes.length, other.subarray(position(change.from, other.length)));
    }
  }
  return bytes;
}

/** Splits a PNG or WebP into chunks and a JPEG into segments. Other files stay whole. */
function chunksOf(bytes: Buffer): Buffer[] {
  const isPng = bytes.toString('latin1', 1, 4) === 'PNG';
  const isWebp = bytes.toString('latin1', 8, 12) === 'WEBP';
  const isJpeg = bytes[0] === 0xff && bytes[1] === 0xd8;
  if (!isPng && !isWebp && !isJpeg) return [bytes];
  let at = isPng ? 8 : isWebp ? 12 : 2;
  const chunks = [bytes.subarray(0, at)];
  while (at + 12 <= bytes.length) {
    const length = isPng
      ? bytes.readUInt32BE(at) + 12
      : isWebp
        ? bytes.readUInt32LE(at + 4) + (bytes.readUInt32LE(at + 4) % 2) + 8
        : bytes[at] === 0xff && bytes[at + 1] !== 0xda
          ? bytes.readUInt16BE(at + 2) + 2
          : bytes.length - at;
    chunks.push(bytes.subarray(at, at + length));
    at += length;
  }
  return [...chunks, bytes.subarray(at)];
}

function rightChecksum(chunk: Buffer): void {
  if (chunk.length < 12 || chunk.readUInt32BE(0) !== chunk.length - 12) return;
  chunk.writeUInt32BE(crc32(chunk.subarray(4, chunk.length - 4)), chunk.length - 4);
}

export const mutatedPicture = fc.tuple(fc.nat(20), fc.array(mutation, { minLength: 1, maxLength: 6 }));
