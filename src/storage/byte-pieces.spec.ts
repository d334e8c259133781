import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BytePieces, lengthOf, PieceCollector, rangeOf, writePieces } from './byte-pieces.js';

/** Sizes around the limits at which pieces are joined and blocks end. */
const sizes = fc.array(fc.oneof(fc.nat(40), fc.integer({ min: 16_380, max: 16_390 }), fc.nat(70_000)), {
  maxLength: 30,
});

/** Pieces of these sizes, whose bytes show their position. */
function piecesOf(lengths: readonly number[]): BytePieces {
  let at = 0;
  return lengths.map((length) => Buffer.from(Uint8Array.from({ length }, () => (at++ * 7) % 251)));
}

describe('byte pieces', () => {
  it('keep their order for any sizes', () => {
    fc.assert(
      fc.property(sizes, (lengths) => {
        const arrived = piecesOf(lengths);
        const collector = new PieceCollector();
        for (const piece of arrived) collector.add(piece);
        const collected = collector.finish();
        expect(lengthOf(collected)).toBe(lengthOf(arrived));
        expect(Buffer.concat(collected).equals(Buffer.concat(arrived))).toBe(true);
      }),
    );
  });

  it('are few, also when a client sends single bytes', () => {
    const collector = new PieceCollector();
    for (let index = 0; index < 1_000_000; index += 1) collector.add(Buffer.of(index % 256));
    expect(collector.finish().length).toBeLessThan(20);

    const alternating = new PieceCollector();
    for (let index = 0; index < 64; index += 1) {
      alternating.add(Buffer.of(index));
      alternating.add(Buffer.alloc(16 * 1024));
    }
    const pieces = alternating.finish();
    expect(pieces.length).toBe(128);
    expect(new Set(pieces.filter(({ length }) => length === 1).map(({ buffer }) => buffer)).size).toBe(1);
  });

  it('are cut into ranges without a copy', () => {
    fc.assert(
      fc.property(sizes, fc.nat(200_000), fc.nat(200_000), (lengths, from, to) => {
        const pieces = piecesOf(lengths);
        const range = rangeOf(pieces, from, to);
        expect(Buffer.concat(range).equals(Buffer.concat(pieces).subarray(from, Math.max(from, to)))).toBe(
          true,
        );
        const memory = new Set(pieces.map(({ buffer }) => buffer));
        expect(range.every(({ buffer }) => memory.has(buffer))).toBe(true);
      }),
    );
  });

  it('are written completely, also when there are 3000', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'byte-pieces-'));
    try {
      const pieces = piecesOf(Array.from({ length: 3000 }, (_, index) => index % 5));
      const file = await open(join(folder, 'file'), 'w');
      await writePieces(file, pieces);
      await file.close();
      expect((await readFile(join(folder, 'file'))).equals(Buffer.concat(pieces))).toBe(true);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
