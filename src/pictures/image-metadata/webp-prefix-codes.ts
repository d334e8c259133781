import { MalformedImageError } from './malformed-image-error.js';

const SIGNATURE = 0x2f;
const [PREDICTOR, COLOUR, , COLOUR_TABLE] = [0, 1, 2, 3];
const LITERALS = 256;
const LENGTHS = 24;
const DISTANCES = 40;
const LONGEST_CODE = 15;
const CODE_LENGTH_ORDER = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

type Size = { readonly width: number; readonly height: number };

/** A prefix code: the number of codes of each length, and the symbols in the order of the codes. */
type PrefixCode = { readonly counts: Uint16Array; readonly symbols: Uint16Array };

/**
 * Counts the groups of prefix codes in lossless image data of a WebP (RFC 9649 §3.7.2.2) without decoding the picture. Only
 * the data before the groups is read: transforms and the map of groups.
 *
 * @param data data of a VP8L chunk, which contains its size; with `size`: data of an ALPH chunk without its first byte
 * @throws MalformedImageError when the data read is broken
 */
export function prefixCodeGroups(data: Buffer, size?: Size): number {
  const bits = new Bits(data);
  if (!size && bits.read(8) !== SIGNATURE) throw broken();
  let width = size?.width ?? bits.read(14) + 1;
  const height = size?.height ?? bits.read(14) + 1;
  if (!size) bits.read(4); // transparency and version

  const seen = new Set<number>();
  while (bits.read(1) === 1) {
    const transform = bits.read(2);
    if (seen.has(transform)) throw broken();
    seen.add(transform);
    if (transform === PREDICTOR || transform === COLOUR) {
      const block = bits.read(3) + 2;
      largestGroup(bits, shrunk(width, block), shrunk(height, block));
    } else if (transform === COLOUR_TABLE) {
      const colours = bits.read(8) + 1;
      largestGroup(bits, colours, 1);
      // With at most 16 colours, several pixels share one byte.
      width = shrunk(width, colours > 16 ? 0 : colours > 4 ? 1 : colours > 2 ? 2 : 3);
    }
  }
  cacheSize(bits);
  if (bits.read(1) === 0) return 1;
  const block = bits.read(3) + 2;
  return 1 + largestGroup(bits, shrunk(width, block), shrunk(height, block));
}

const shrunk = (pixels: number, block: number): number => Math.ceil(pixels / 2 ** block);

const broken = (): MalformedImageError => new MalformedImageError('Lossless data of the WebP are broken.');

function cacheSize(bits: Bits): number {
  if (bits.read(1) === 0) return 0;
  const size = bits.read(4);
  if (size < 1 || size > 11) throw broken();
  return 2 ** size;
}

/**
 * Reads an embedded picture to its end. In a map of groups, red and green of a pixel are the group number. Copied pixels
 * repeat earlier pixels, so the largest group number is among the literal pixels.
 */
function largestGroup(bits: Bits, width: number, height: number): number {
  const green = readCode(bits, LITERALS + LENGTHS + cacheSize(bits));
  const red = readCode(bits, LITERALS);
  const blue = readCode(bits, LITERALS);
  const alpha = readCode(bits, LITERALS);
  const distance = readCode(bits, DISTANCES);
  const isOneColour = [green, red, blue, alpha].every(({ symbols }) => symbols.length === 1);
  let largest = 0;
  for (let left = width * height; left > 0; left -= 1) {
    const symbol = bits.symbol(green);
    if (symbol < LITERALS) {
      largest = Math.max(largest, (bits.symbol(red) << 8) | symbol);
      bits.symbol(blue);
      bits.symbol(alpha);
      if (isOneColour) break;
    } else if (symbol < LITERALS + LENGTHS) {
      left -= bits.length(symbol - LITERALS) - 1;
      bits.length(bits.symbol(distance));
    }
  }
  return largest;
}

function readCode(bits: Bits, symbols: number): PrefixCode {
  const lengths = new Uint8Array(symbols);
  if (bits.read(1) === 1) {
    const isPair = bits.read(1) === 1;
    const first = bits.read(bits.read(1) === 1 ? 8 : 1);
    for (const symbol of isPair ? [first, bits.read(8)] : [first]) {
      if (symbol >= symbols) throw broken();
      lengths[symbol] = 1;
    }
    return prefixCode(lengths);
  }
  const lengthLengths = new Uint8Array(CODE_LENGTH_ORDER.length);
  const stated = 4 + bits.read(4);
  for (const symbol of CODE_LENGTH_ORDER.slice(0, stated)) lengthLengths[symbol] = bits.read(3);
  const lengthCode = prefixCode(lengthLengths);

  let left = bits.read(1) === 1 ? 2 + bits.read(2 + 2 * bits.read(3)) : symbols;
  if (left > symbols) throw broken();
  let previous = 8;
  for (let symbol = 0; symbol < symbols && left > 0; left -= 1) {
    const length = bits.symbol(lengthCode);
    if (length <= LONGEST_CODE) {
      lengths[symbol] = length;
      symbol += 1;
      if (length !== 0) previous = length;
      continue;
    }
    const times = length === 16 ? 3 + bits.read(2) : length === 17 ? 3 + bits.read(3) : 11 + bits.read(7);
    if (symbol + times > symbols) throw broken();
    lengths.fill(length === 16 ? previous : 0, symbol, symbol + times);
    symbol += times;
  }
  return prefixCode(lengths);
}

function prefixCode(lengths: Uint8Array): PrefixCode {
  const counts = new Uint16Array(LONGEST_CODE + 1);
  for (const length of lengths) if (length > 0) counts[length] = (counts[length] ?? 0) + 1;
  const places = new Uint16Array(LONGEST_CODE + 2);
  let open = 1;
  for (let length = 1; length <= LONGEST_CODE; length += 1) {
    const count = counts[length] ?? 0;
    open = open * 2 - count;
    if (open < 0) throw broken();
    places[length + 1] = (places[length] ?? 0) + count;
  }
  const used = places[LONGEST_CODE + 1] ?? 0;
  // A code with a single symbol takes no bits, regardless of its stated length.
  if (used === 0 || (used > 1 && open !== 0)) throw broken();
  const symbols = new Uint16Array(used);
  for (const [symbol, length] of lengths.entries()) {
    if (length === 0) continue;
    const place = places[length] ?? 0;
    symbols[place] = symbol;
    places[length] = place + 1;
  }
  return { counts, symbols };
}

/** Reads bits from bytes, lowest bit first. */
class Bits {
  #at = 0;

  constructor(private readonly bytes: Buffer) {}

  read(count: number): number {
    let value = 0;
    for (let bit = 0; bit < count; bit += 1) value |= this.#next() << bit;
    return value;
  }

  /** Decodes the next symbol. Codes of one length are consecutive numbers (canonical prefix code). */
  symbol({ counts, symbols }: PrefixCode): number {
    if (symbols.length === 1) return symbols[0] ?? 0;
    let code = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length <= LONGEST_CODE; length += 1) {
      code |= this.#next();
      const count = counts[length] ?? 0;
      if (code - count < first) return symbols[index + code - first] ?? 0;
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw broken();
  }

  /** Reads a length or distance. The symbol gives the order of magnitude. */
  length(symbol: number): number {
    if (symbol < 4) return symbol + 1;
    const further = (symbol - 2) >> 1;
    return ((2 + (symbol & 1)) << further) + this.read(further) + 1;
  }

  #next(): number {
    const byte = this.bytes[this.#at >> 3];
    if (byte === undefined) throw broken();
    const bit = (byte >> (this.#at & 7)) & 1;
    this.#at += 1;
    return bit;
  }
}
