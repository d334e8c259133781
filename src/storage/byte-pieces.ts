import type { FileHandle } from 'node:fs/promises';

/**
 * Bytes in pieces, in the order of their arrival. Joining the pieces would copy all bytes again, and large buffers make the
 * garbage collector run more often.
 */
export type BytePieces = readonly Buffer[];

/** Smaller pieces are joined: a client that sends single bytes would fill the memory with objects. */
const SMALL_BYTES = 16 * 1024;
const BLOCK_BYTES = 64 * 1024;

export function lengthOf(pieces: BytePieces): number {
  return pieces.reduce((length, piece) => length + piece.length, 0);
}

/** The bytes from `from` to `to`, without the byte at `to`. Nothing is copied. */
export function rangeOf(pieces: BytePieces, from: number, to: number): BytePieces {
  const range: Buffer[] = [];
  let start = 0;
  for (const piece of pieces) {
    if (start >= to) break;
    if (start + piece.length > from) range.push(piece.subarray(Math.max(0, from - start), to - start));
    start += piece.length;
  }
  return range;
}

/** Writes the pieces from the start of a file. */
export async function writePieces(file: FileHandle, pieces: BytePieces): Promise<void> {
  const length = lengthOf(pieces);
  for (let written = 0; written < length;) {
    const { bytesWritten } = await file.writev([...rangeOf(pieces, written, length)], written);
    written += bytesWritten;
  }
}

/** Collects pieces as they arrive. */
export class PieceCollector {
  private readonly pieces: Buffer[] = [];
  private block = Buffer.alloc(0);
  /** The start and the end of the block's bytes that are not among the pieces yet. */
  private blockStart = 0;
  private blockEnd = 0;

  add(bytes: Buffer): void {
    if (bytes.length < SMALL_BYTES) {
      this.copy(bytes);
    } else {
      this.endBlock();
      this.pieces.push(bytes);
    }
  }

  finish(): BytePieces {
    this.endBlock();
    return this.pieces;
  }

  private copy(bytes: Buffer): void {
    if (bytes.length > this.block.length - this.blockEnd) {
      this.endBlock();
      this.block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
      this.blockStart = 0;
      this.blockEnd = 0;
    }
    this.blockEnd += bytes.copy(this.block, this.blockEnd);
  }

  private endBlock(): void {
    if (this.blockEnd > this.blockStart)
      this.pieces.push(this.block.subarray(this.blockStart, this.blockEnd));
    this.blockStart = this.blockEnd;
  }
}
