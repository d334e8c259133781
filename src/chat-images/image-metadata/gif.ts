import { KeptBytes } from './kept-bytes.js';
import { MalformedImageError } from './malformed-image-error.js';

const EXTENSION = 0x21;
const IMAGE = 0x2c;
const TRAILER = 0x3b;
const GRAPHIC_CONTROL = 0xf9;
const APPLICATION = 0xff;
/** Introducer, label, length and name of the application that an extension is for. */
const APPLICATION_HEADER_LENGTH = 14;
const LOOPING_APPLICATIONS = ['NETSCAPE2.0', 'ANIMEXTS1.0'];

/**
 * Keeps of a GIF (GIF89a specification) its screen, colour tables, frames with the graphic control that precedes each,
 * and the loop count of NETSCAPE2.0 or ANIMEXTS1.0. Comments, other applications' blocks (XMP is one), plain text, which
 * no viewer shows, and all that follows the trailer are dropped. The last control or loop count wins where there are
 * several, as in decoders.
 *
 * A frame's LZW codes are followed to their end, and what comes behind it in the frame's blocks is cut. What stays
 * possible is a colour table or a frame that is never visible, and at most seven bits behind each end.
 */
export function gifWithoutMetadata(bytes: Buffer): Buffer {
  if (bytes.length < 13 || !/^GIF8[79]a$/.test(bytes.toString('latin1', 0, 6))) {
    throw new MalformedImageError('The GIF has no header.');
  }
  const kept = new KeptBytes(bytes);
  let at = 13 + colourTableLength(bytes[10]);
  kept.keep(0, at);
  const lengths = new Uint16Array(4096);
  let control: number | undefined;
  let loop: Buffer | undefined;
  let hasFrame = false;

  while (at < bytes.length && bytes[at] !== TRAILER) {
    if (bytes[at] === IMAGE) {
      if (control !== undefined) {
        kept.keep(control, control + 7);
        kept.write(Buffer.of(0));
        control = undefined;
      }
      at = keepFrame(bytes, at, kept, lengths);
      hasFrame = true;
    } else if (bytes[at] === EXTENSION) {
      const data = at + 2;
      const label = bytes[at + 1];
      if (label === GRAPHIC_CONTROL) {
        if (bytes[data] !== 4)
          throw new MalformedImageError('A graphic control of the GIF has a wrong length.');
        control = at;
      } else if (label === APPLICATION) {
        const count = loopCountAt(bytes, at);
        if (count !== undefined) {
          loop ??= reserveLoop(at, kept);
          count.copy(loop, 2);
        }
      }
      at = endOfBlocks(bytes, data);
    } else {
      throw new MalformedImageError('The GIF has an unknown block.');
    }
  }
  if (at >= bytes.length) throw new MalformedImageError('The GIF has no end.');
  if (!hasFrame) throw new MalformedImageError('The GIF has no picture.');
  kept.keep(at, at + 1);
  return kept.toBuffer();
}

function colourTableLength(flags = 0): number {
  return (flags & 0x80) === 0 ? 0 : 3 * 2 ** ((flags & 0x07) + 1);
}

/** The position behind the terminator of the data sub-blocks that begin at `from`. */
function endOfBlocks(bytes: Buffer, from: number): number {
  let at = from;
  for (let length = bytes[at]; length !== 0; length = bytes[at]) {
    if (length === undefined) throw new MalformedImageError('A block of the GIF runs over its end.');
    at += 1 + length;
  }
  return at + 1;
}

/** The two bytes of a looping application's count: the sub-block that has the identifier 1. */
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

/** Keeps the extension's header and leaves room for its one sub-block, of which the count is filled in later. */
function reserveLoop(extension: number, kept: KeptBytes): Buffer {
  kept.keep(extension, extension + APPLICATION_HEADER_LENGTH);
  const block = kept.reserve(5);
  block.set([3, 1, 0, 0, 0]);
  return block;
}

/** @returns the position behind the frame */
function keepFrame(bytes: Buffer, start: number, kept: KeptBytes, lengths: Uint16Array): number {
  const data = start + 10 + colourTableLength(bytes[start + 9]) + 1;
  const codeSize = bytes[data - 1];
  if (codeSize === undefined) throw new MalformedImageError('A block of the GIF runs over its end.');
  if (codeSize < 1 || codeSize > 11)
    throw new MalformedImageError('A frame of the GIF has a wrong code size.');
  const end = endOfBlocks(bytes, data);
  const pixels = bytes.readUInt16LE(start + 5) * bytes.readUInt16LE(start + 7);
  const needed = lengthOfCodes(bytes, data, codeSize, pixels, lengths);

  kept.keep(start, data);
  let left = needed;
  let block = data;
  for (let length = bytes[block] ?? 0; length !== 0 && length <= left; length = bytes[block] ?? 0) {
    left -= length;
    block += 1 + length;
  }
  kept.keep(data, block);
  if (left > 0 && bytes[block] !== 0) {
    kept.write(Buffer.of(left));
    kept.keep(block + 1, block + 1 + left);
  }
  if (block === end - 1) kept.keep(block, end);
  else kept.write(Buffer.of(0));
  return end;
}

/**
 * How many bytes of data a frame's LZW codes take: up to the end code, or to the code that would draw behind the last
 * pixel. The width of each code follows from how many came before it, and its number of pixels from the code's parent,
 * so nothing has to be drawn.
 *
 * @param from the first sub-block; all of them are known to be complete
 * @param lengths how many pixels each code draws; one table for all frames, as a file may have very many
 */
function lengthOfCodes(
  bytes: Buffer,
  from: number,
  codeSize: number,
  pixels: number,
  lengths: Uint16Array,
): number {
  const clear = 1 << codeSize;
  lengths.fill(1, 0, clear);
  let next = clear + 2;
  let width = codeSize + 1;
  let previous = -1;
  let drawn = 0;

  let block = from;
  let blockEnd = from;
  let taken = 0;
  let bits = 0;
  let bitCount = 0;
  for (;;) {
    while (bitCount < width) {
      if (block === blockEnd) {
        const length = bytes[block] ?? 0;
        if (length === 0) return taken;
        block += 1;
        blockEnd = block + length;
      }
      bits |= (bytes[block] ?? 0) << bitCount;
      bitCount += 8;
      block += 1;
      taken += 1;
    }
    const code = bits & ((1 << width) - 1);
    bits >>>= width;
    bitCount -= width;

    if (code === clear) {
      next = clear + 2;
      width = codeSize + 1;
      previous = -1;
      continue;
    }
    // The end code, or what is as good as one. A code that begins in a needed byte can leave some of its bits there.
    if (code === clear + 1) return taken;
    if (drawn >= pixels) return taken - Math.floor((bitCount + width) / 8);
    if (previous !== -1 && next < 4096) {
      lengths[next] = (lengths[previous] ?? 0) + 1;
      next += 1;
      if (next === 1 << width && width < 12) width += 1;
    }
    if (code >= next) throw new MalformedImageError('A frame of the GIF has a code that means nothing.');
    drawn += lengths[code] ?? 0;
    previous = code;
  }
}
