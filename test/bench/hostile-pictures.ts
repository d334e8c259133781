import { crc32, deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { MAX_FILE_BYTES } from '../../src/chat-images/upload-form.js';

/** The piece as often as it fits. */
export const filled = (piece: Buffer | string, bytes: number): Buffer =>
  Buffer.alloc(Math.floor(bytes / piece.length) * piece.length, piece, 'latin1');

export function noise(width: number, height: number, sigma = 12): Sharp {
  const grain = { type: 'gaussian', mean: 128, sigma } as const;
  return sharp({ create: { width, height, channels: 3, background: 'grey', noise: grain } });
}

/** A JPEG with as many pieces behind its start as fit. */
export async function jpegWith(piece: readonly number[], bytes = MAX_FILE_BYTES): Promise<Buffer> {
  const picture = await noise(64, 48).jpeg().toBuffer();
  const pieces = filled(Buffer.from(piece), bytes - picture.length);
  return Buffer.concat([picture.subarray(0, 2), pieces, picture.subarray(2)]);
}

/** A JPEG of so many flat blocks in each direction, with a restart marker behind every one. */
export async function jpegOfRestarts(blocks: number): Promise<Buffer> {
  const one = await sharp(Buffer.alloc(64, 60), { raw: { width: 8, height: 8, channels: 1 } })
    .toColourspace('b-w')
    .jpeg()
    .toBuffer();
  const frame = one.indexOf(Buffer.of(0xff, 0xc0));
  one.writeUInt16BE(blocks * 8, frame + 5);
  one.writeUInt16BE(blocks * 8, frame + 7);
  const scan = one.indexOf(Buffer.of(0xff, 0xda));
  const codes = scan + 2 + one.readUInt16BE(scan + 2);
  const block = one.subarray(codes, -2);
  const eight = Buffer.concat(
    Array.from({ length: 8 }, (_, index) => [block, Buffer.of(0xff, 0xd0 + index)]).flat(),
  );
  const all = Buffer.alloc(blocks ** 2 * (block.length + 2), eight).subarray(0, -2);
  const everyBlock = Buffer.of(0xff, 0xdd, 0, 4, 0, 1);
  return Buffer.concat([
    one.subarray(0, scan),
    everyBlock,
    one.subarray(scan, codes),
    all,
    Buffer.of(0xff, 0xd9),
  ]);
}

export function pngChunk(type: string, data: Buffer = Buffer.alloc(0)): Buffer {
  const chunk = Buffer.alloc(data.length + 12);
  chunk.writeUInt32BE(data.length);
  chunk.write(type, 4, 'latin1');
  chunk.set(data, 8);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, data.length + 8)), data.length + 8);
  return chunk;
}

/** A black PNG of red, green, blue and alpha, with other chunks before and behind its data. */
export function png(
  { width, height, depth }: { width: number; height: number; depth: 8 | 16 },
  { before, after }: { before?: Buffer; after?: Buffer } = {},
): Buffer {
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, depth, 6, 0, 0, 0]);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    pngChunk('IHDR', header),
    before ?? Buffer.alloc(0),
    pngChunk('IDAT', deflateSync(Buffer.alloc(height * (1 + (width * depth) / 2)))),
    after ?? Buffer.alloc(0),
    pngChunk('IEND'),
  ]);
}

/** A GIF of one size for its screen and all its frames, each of the given LZW data in sub-blocks. */
export function gif(side: number, frame: Buffer, frames: number): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt16LE(side);
  size.writeUInt16LE(side, 2);
  const image = Buffer.concat([Buffer.of(0x2c, 0, 0, 0, 0), size, Buffer.of(0), frame, Buffer.of(0)]);
  return Buffer.concat([
    Buffer.from('GIF89a'),
    size,
    Buffer.from([0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff]),
    filled(image, image.length * frames),
    Buffer.of(0x3b),
  ]);
}

/** LZW data of sub-blocks of one byte: now and then a clear code, and codes of one pixel each. */
export function singleByteBlocks(pixels: number): Buffer {
  const codes = Buffer.concat([Buffer.of(0x80), Buffer.alloc(120)]);
  const data = Buffer.concat([filled(codes, Math.ceil(pixels / 120) * codes.length), Buffer.of(0x81)]);
  const blocks = Buffer.alloc(data.length * 2, 1);
  for (const [index, code] of data.entries()) blocks[index * 2 + 1] = code;
  return Buffer.concat([Buffer.of(7), blocks]);
}

export function webpChunk(type: string, data: Buffer): Buffer {
  const chunk = Buffer.alloc(8 + data.length + (data.length % 2));
  chunk.write(type, 'latin1');
  chunk.writeUInt32LE(data.length, 4);
  chunk.set(data, 8);
  return chunk;
}

/** The picture's own chunk of a WebP of one pixel. */
export async function webpPixel(): Promise<Buffer> {
  return (await noise(1, 1).webp({ lossless: true }).toBuffer()).subarray(12);
}

/** A WebP of one pixel with these chunks. */
export function webp(flags: number, chunks: Buffer): Buffer {
  const all = Buffer.concat([
    Buffer.from('WEBP'),
    webpChunk('VP8X', Buffer.alloc(10).fill(flags, 0, 1)),
    chunks,
  ]);
  return webpChunk('RIFF', all);
}
