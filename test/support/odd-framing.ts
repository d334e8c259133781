import fc from 'fast-check';
import { mostly } from './fuzz-property.js';

/** The framing of a body. */
export type Framing =
  | { readonly by: 'length'; readonly delta: number }
  | { readonly by: 'chunks'; readonly cuts: readonly number[]; readonly flaw: ChunkFlaw };

type ChunkFlaw = 'none' | 'extension' | 'trailer' | 'bad size' | 'no end';

export const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 });

export const framing: fc.Arbitrary<Framing> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      by: fc.constant('length' as const),
      delta: mostly(0, fc.constantFrom(-1, -2, -50, 1, 1000)),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      by: fc.constant('chunks' as const),
      cuts,
      flaw: mostly<ChunkFlaw, ChunkFlaw>(
        'none',
        fc.constantFrom('extension', 'trailer', 'bad size', 'no end'),
      ),
    }),
  },
);

export function cut(bytes: Buffer, at: readonly number[]): Buffer[] {
  const positions = [0, ...at.map((share) => Math.floor(share * bytes.length)), bytes.length];
  positions.sort((a, b) => a - b);
  return positions
    .slice(1)
    .map((end, index) => bytes.subarray(positions[index], end))
    .filter(({ length }) => length);
}

/** The header for the body, and the sent body. */
export function framed(body: Buffer, framing: Framing): { header: string; sent: Buffer } {
  if (framing.by === 'length') {
    return { header: `Content-Length: ${Math.max(0, body.length + framing.delta)}`, sent: body };
  }
  const { flaw } = framing;
  const chunks = cut(body, framing.cuts).map((chunk, index) => {
    const size = flaw === 'bad size' && index === 0 ? 'zz' : chunk.length.toString(16);
    return Buffer.concat([
      Buffer.from(`${size}${flaw === 'extension' ? ';a="b"' : ''}\r\n`),
      chunk,
      Buffer.from('\r\n'),
    ]);
  });
  const end = {
    none: '0\r\n\r\n',
    extension: '0\r\n\r\n',
    trailer: '0\r\nX-T: a\r\n\r\n',
    'bad size': 'zz\r\n',
    'no end': '',
  };
  return { header: 'Transfer-Encoding: chunked', sent: Buffer.concat([...chunks, Buffer.from(end[flaw])]) };
}
