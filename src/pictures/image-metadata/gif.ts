import { AnimationSize } from './animation-size.js';
import { ImageLimitError, NOT_SHOWN } from './image-limit-error.js';
import { type CleanedImage, KeptBytes } from './kept-bytes.js';
import { MalformedImageError } from './malformed-image-error.js';
import { PartCount } from './part-count.js';

const EXTENSION = 0x21;
const IMAGE = 0x2c;
const TRAILER = 0x3b;
const GRAPHIC_CONTROL = 0xf9;
const APPLICATION = 0xff;
/** Introducer, label, length and application name of an application extension. */
const APPLICATION_HEADER_LENGTH = 14;
/** Bits of the shortest LZW code, without the code's two special values. Longer ones are not shown by browsers. */
const MAX_CODE_SIZE = 8;
const LOOPING_APPLICATIONS = ['NETSCAPE2.0', 'ANIMEXTS1.0'];

/**
 * Keeps of a GIF (GIF89a specification): logical screen, colour tables, frames with their graphic control, and the loop
 * count (NETSCAPE2.0, ANIMEXTS1.0). Dropped: comments, other application extensions such as XMP, plain text, which no viewer
 * shows, and all bytes after the trailer. With several graphic controls or loop counts, the last one wins, as in decoders.
 *
 * A file without its trailer gets one. Behind a frame, an unknown block and a cut extension end the file, as in decoders.
 *
 * The LZW codes of a frame are followed to their end, and the bytes after the end code are cut. Not covered: a colour table
 * or a frame that is never visible, and at most seven bits after each end code.
 */
export function gifWithoutMetadata(bytes: Buffer): CleanedImage {
  if (bytes.length < 13 || !/^GIF8[79]a$/.test(bytes.toString('latin1', 0, 6))) {
    throw new MalformedImageError('The GIF has no header.');
  }
  const kept = new KeptBytes(bytes);
  let at = 13 + colourTableLength(bytes[10]);
  kept.keep(0, at);
  const parts = new PartCount(bytes.length);
  const animation = new AnimationSize({ width: bytes.readUInt16LE(6), height: bytes.readUInt16LE(8) });
  const lengths = new Uint16Array(4096);
  let control: number | undefined;
  let loop: Buffer | undefined;
  let hasPixels = false;

  while (!isEnd(bytes, at, hasPixels)) {
    if (bytes[at] === IMAGE) {
      if (control !== undefined) {
        kept.keep(control, control + 7);
        kept.write(Buffer.of(0));
        control = undefined;
      }
      const frame = keepFrame(bytes, at, kept, { lengths, parts, animation });
      at = frame.end;
      hasPixels ||= frame.pixels > 0;
    } else if (bytes[at] === EXTENSION) {
      parts.add();
      const data = at + 2;
      const label = bytes[at + 1];
      const end = endOfBlocks(bytes, data, parts);
      if (end === undefined && hasPixels) break;
      if (end === undefined) throw new MalformedImageError('A block of the GIF runs over its end.');
      if (label === GRAPHIC_CONTROL) {
        // With other blocks, decoders disagree about what follows.
        if (bytes[data] !== 4 || end !== data + 6)
          throw new MalformedImageError('A graphic control of the GIF has a wrong length.');
        control = at;
      } else if (label === APPLICATION) {
        const count = loopCountAt(bytes, at);
        if (count !== undefined) {
          loop ??= reserveLoop(at, kept);
          count.copy(loop, 2);
        }
      }
      at = end;
    } else {
      throw new MalformedImageError('The GIF has an unknown block.');
    }
  }
  if (!hasPixels) throw new MalformedImageError('The GIF has no picture.');
  if (bytes[at] === TRAILER) kept.keep(at, at + 1);
  else kept.write(Buffer.of(TRAILER));
  return kept.finish();
}

/**
 * Whether the file ends here: with its trailer, with zeros before or in place of it, or without any. Behind a frame, a block
 * that is unknown ends it, too.
 */
function isEnd(bytes: Buffer, from: number, hasPixels: boolean): boolean {
  let at = from;
  while (bytes[at] === 0) at += 1;
  if (at >= bytes.length || bytes[at] === TRAILER) return true;
  return hasPixels && bytes[at] !== IMAGE && bytes[at] !== EXTENSION;
}

function colourTableLength(flags = 0): number {
  return (flags & 0x80) === 0 ? 0 : 3 * 2 ** ((flags & 0x07) + 1);
}

/** The position after the terminator of the data sub-blocks that begin at `from`; nothing when the file ends before it. */
function endOfBlocks(bytes: Buffer, from: number, parts: PartCount): number | undefined {
  let at = from;
  for (let length = bytes[at]; length !== 0; length = bytes[at]) {
    if (length === undefined) return undefined;
    parts.add();
    at += 1 + length;
  }
  return at + 1;
}

/** The two bytes of the loop count in a looping extension: the sub-block with identifier 1. */
function loopCountAt(bytes: Buffer, extension: number): Buffer | undefined {
  const blocks = extension + APPLICATION_HEADER_LENGTH;
  if (bytes[extension + 2] !== 11) return undefined;
  if (!LOOPING_APPLICATIONS.includes(bytes.toString('latin1', extension + 3, blocks))) return undefined;
  let at = blocks;
  for (let length = bytes[at]; length !== 0 && length !== undefined; length = bytes[at]) {
    if (length === 3 && bytes[at + 1] === 1 && at + 4 <= bytes.length) return bytes.subarray(at + 2, at + 4);
    at += 1 + length;
  }
  return undefined;
}

/** Keeps the extension's header and reserves its single sub-block. The loop count is filled in later. */
function reserveLoop(extension: number, kept: KeptBytes): Buffer {
  kept.keep(extension, extension + APPLICATION_HEADER_LENGTH);
  const block = kept.reserve(5);
  block.set([3, 1, 0, 0, 0]);
  return block;
}

/** State shared by all frames. */
type Frames = {
  /** How many pixels each LZW code draws. One table for all frames, because a file may have many frames. */
  readonly lengths: Uint16Array;
  readonly parts: PartCount;
  readonly animation: AnimationSize;
};

/** @returns the position after the frame, and the number of its pixels */
function keepFrame(
  bytes: Buffer,
  start: number,
  kept: KeptBytes,
  frames: Frames,
): { readonly end: number; readonly pixels: number } {
  const data = start + 10 + colourTableLength(bytes[start + 9]) + 1;
  const codeSize = bytes[data - 1];
  if (codeSize === undefined) throw new MalformedImageError('A block of the GIF runs over its end.');
  if (codeSize < 1 || codeSize > 11)
    throw new MalformedImageError('A frame of the GIF has a wrong code size.');
  if (codeSize > MAX_CODE_SIZE)
    throw new ImageLimitError(NOT_SHOWN, `The GIF has codes of ${codeSize} bits and more.`);
  const [left, top] = [bytes.readUInt16LE(start + 1), bytes.readUInt16LE(start + 3)];
  const [width, height] = [bytes.readUInt16LE(start + 5), bytes.readUInt16LE(start + 7)];
  frames.animation.addFrame({ left, top, width, height });
  const end = endOfBlocks(bytes, data, frames.parts);
  if (end === undefined) throw new MalformedImageError('A block of the GIF runs over its end.');
  const codes = codesOf(joined(bytes, data, end), codeSize, width * height, frames);

  kept.keep(start, data);
  let rest = codes.length;
  let block = data;
  for (let length = bytes[block] ?? 0; length !== 0 && length <= rest; length = bytes[block] ?? 0) {
    rest -= length;
    block += 1 + length;
  }
  kept.keep(data, block);
  if (rest > 0 && bytes[block] !== 0) {
    kept.write(Buffer.of(rest));
    kept.keep(block + 1, block + 1 + rest);
  }
  if (codes.tail.length > 0) kept.write(Buffer.of(codes.tail.length, ...codes.tail));
  if (block === end - 1 && codes.tail.length === 0) kept.keep(block, end);
  else kept.write(Buffer.of(0));
  return { end, pixels: width * height };
}

/** The concatenated data of the sub-blocks, plus two zero bytes so that a code at the end can be read safely. */
function joined(bytes: Buffer, from: number, end: number): { data: Buffer; length: number } {
  const data = Buffer.allocUnsafe(end - from + 2);
  let length = 0;
  for (let at = from, size = bytes[at] ?? 0; size !== 0; at += 1 + size, size = bytes[at] ?? 0) {
    length += bytes.copy(data, length, at + 1, at + 1 + size);
  }
  data.fill(0, length);
  return { data, length };
}

/** How many bytes of a frame's LZW codes are kept, and the bytes to write behind them. */
type Codes = { readonly length: number; readonly tail: readonly number[] };

/**
 * A frame's LZW codes up to the end code. Without one they get one behind the last pixel: some decoders draw a code only
 * when they have read the next one. Nothing is drawn: the width of a code follows from the number of codes before, and its
 * pixel count from the parent code. A clear code right after another clear code counts as a part.
 *
 * @throws MalformedImageError when the codes draw fewer pixels than the frame has
 */
function codesOf(
  { data, length }: { data: Buffer; length: number },
  codeSize: number,
  pixels: number,
  { lengths, parts }: Frames,
): Codes {
  const clear = 1 << codeSize;
  lengths.fill(1, 0, clear);
  let next = clear + 2;
  let width = codeSize + 1;
  let previous = -1;
  let drawn = 0;
  let bit = 0;
  while (bit + width <= length * 8) {
    const at = bit >> 3;
    const bits = (data[at] ?? 0) | ((data[at + 1] ?? 0) << 8) | ((data[at + 2] ?? 0) << 16);
    const code = (bits >> (bit & 7)) & ((1 << width) - 1);
    if (drawn >= pixels && code !== clear && code !== clear + 1) break;
    bit += width;
    if (code === clear) {
      if (previous === -1) parts.add();
      next = clear + 2;
      width = codeSize + 1;
      previous = -1;
      continue;
    }
    if (code === clear + 1) {
      expectPixels(drawn, pixels);
      return { length: Math.ceil(bit / 8), tail: [] };
    }
    if (previous !== -1 && next < 4096) {
      lengths[next] = (lengths[previous] ?? 0) + 1;
      next += 1;
    }
    if (code >= next) throw new MalformedImageError('A frame of the GIF has a code that means nothing.');
    drawn += lengths[code] ?? 0;
    previous = code;
    if (next === 1 << width && width < 12) width += 1;
  }
  expectPixels(drawn, pixels);
  const used = bit & 7;
  const last = ((data[bit >> 3] ?? 0) & ((1 << used) - 1)) | ((clear + 1) << used);
  const tail = Array.from(
    { length: Math.ceil((used + width) / 8) },
    (_, index) => (last >> (8 * index)) & 0xff,
  );
  return { length: bit >> 3, tail };
}

function expectPixels(drawn: number, pixels: number): void {
  if (drawn < pixels) throw new MalformedImageError('A frame of the GIF is incomplete.');
}
