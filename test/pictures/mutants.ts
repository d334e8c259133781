import { type RandomNumbers, randomNumbers } from '../support/random-numbers.js';
import { PERSON } from './personal-data.js';
import { type Grammar, GRAMMARS, type Part } from './grammars.js';
import type { NamedPicture } from './corpus.js';

/** Bytes of a part that are changed one by one: headers are shorter. */
const CHANGED_BYTES = 32;
/** Places in compressed data that are changed. */
const CHANGED_PLACES = 12;

/**
 * The picture with each part left out, doubled, moved, made longer or shorter, with a wrong length or checksum, changed, or
 * beside other parts; and the picture cut, or with bytes behind it. The same in every run.
 */
export function* mutantsOf({ name, bytes, format }: NamedPicture): Generator<NamedPicture> {
  for (const [index, grammar] of GRAMMARS.entries()) {
    if (grammar.format !== format) continue;
    const parts = grammar.split(bytes);
    for (const { change, changed } of changes(parts, grammar, randomNumbers(index, bytes.length))) {
      yield { name: `${name}: ${change}`, bytes: changed, format };
    }
  }
}

type Change = { readonly change: string; readonly changed: Buffer };

function* changes(parts: readonly Part[], grammar: Grammar, random: RandomNumbers): Generator<Change> {
  const all = parts.map((part) => part.bytes);
  /** The picture with other bytes in place of a part. */
  const replaced = (index: number, ...bytes: readonly Buffer[]): Buffer =>
    grammar.join([...all.slice(0, index), ...bytes, ...all.slice(index + 1)]);

  for (const [index, part] of parts.entries()) {
    const at = `${part.name} (${index})`;
    yield { change: `without ${at}`, changed: replaced(index) };
    yield { change: `${at} twice`, changed: replaced(index, part.bytes, part.bytes) };
    const others = all.filter((_, other) => other !== index);
    for (const to of new Set([1, index + 1, index + 2, others.length - 1, others.length])) {
      if (to > others.length || to === index) continue;
      const moved = [...others.slice(0, to), part.bytes, ...others.slice(to)];
      yield { change: `${at} moved to ${to}`, changed: grammar.join(moved) };
      const copied = [...all.slice(0, to), part.bytes, ...all.slice(to)];
      yield { change: `${at} again at ${to}`, changed: grammar.join(copied) };
    }
    for (const { change, changed } of ofContent(part, parts[index + 1], random)) {
      yield { change: `${at} ${change}`, changed: replaced(index, changed) };
    }
    const start = all.slice(0, index);
    const half = part.bytes.subarray(0, part.bytes.length >> 1);
    yield { change: `cut before ${at}`, changed: Buffer.concat(start) };
    yield { change: `cut in ${at}`, changed: Buffer.concat([...start, half]) };
    yield { change: `ended before ${at}`, changed: grammar.join(start) };
    yield { change: `ended in ${at}`, changed: grammar.join([...start, half]) };
    yield { change: `zeros from ${at}`, changed: Buffer.concat([...start, Buffer.alloc(40)]) };
    for (const other of grammar.others) {
      // There it would be data of the picture.
      const inScan = part.name === 'scan' || parts[index - 1]?.name === 'scan';
      if (inScan && other.name === 'text') continue;
      yield { change: `${other.name} before ${at}`, changed: replaced(index, other.bytes, part.bytes) };
    }
  }
  const whole = grammar.join(all);
  const tails = [Buffer.alloc(1), Buffer.alloc(300), Buffer.from(PERSON), Buffer.alloc(5, 0xff), whole];
  for (const [index, tail] of tails.entries()) {
    yield { change: `with bytes behind its end (${index})`, changed: Buffer.concat([whole, tail]) };
  }
  for (const less of [1, 2, 3, 4, 5, 8, 12, 16]) {
    yield { change: `without its last ${less} bytes`, changed: whole.subarray(0, -less) };
  }
}

function* ofContent(part: Part, next: Part | undefined, random: RandomNumbers): Generator<Change> {
  const { content, bytes } = part;
  const write = content?.write ?? ((data: Buffer): Buffer => data);
  const data = content?.data ?? bytes;
  for (const [place, before] of data.subarray(0, CHANGED_BYTES).entries()) {
    for (const value of new Set([0, 0xff, before ^ 1, before ^ 0x80])) {
      if (value === before) continue;
      const copy = Buffer.from(data);
      copy[place] = value;
      yield { change: `with ${value} at ${place}`, changed: write(copy) };
    }
  }
  for (let count = 0; count < CHANGED_PLACES && data.length > CHANGED_BYTES; count += 1) {
    const copy = Buffer.from(data);
    const place = CHANGED_BYTES + random(data.length - CHANGED_BYTES);
    copy[place] = random(256);
    yield { change: `with ${copy[place]} at ${place}`, changed: write(copy) };
  }
  if (!content) return;
  const { state, maxLength, hasChecksum, zlib } = content;

  for (const more of [1, 2, 3, 20]) {
    if (data.length + more > maxLength) continue;
    const longer = Buffer.concat([data, Buffer.alloc(more, more)]);
    yield { change: `longer by ${more}`, changed: write(longer) };
  }
  for (const less of [1, 2, 3, data.length >> 1, data.length]) {
    if (less > data.length) continue;
    yield { change: `shorter by ${less}`, changed: write(data.subarray(0, data.length - less)) };
  }
  const nextLength = next?.bytes.length ?? 0;
  for (const length of new Set([
    ...[0, 1, data.length - 1, data.length + 1, data.length + 2, data.length + nextLength],
    ...[-1, -2, maxLength],
  ])) {
    if (length !== data.length) yield { change: `of stated length ${length}`, changed: state(length) };
  }
  // The first byte of a type: other chunks, markers and labels.
  for (const bit of [1, 0x20]) {
    const copy = Buffer.from(bytes);
    const at = hasChecksum ? 4 : bytes[0] === 0xff ? 1 : 0;
    copy[at] = (copy[at] ?? 0) ^ bit;
    yield { change: `with another name (${bit})`, changed: copy };
  }
  if (hasChecksum) {
    const copy = Buffer.from(bytes);
    copy[copy.length - 1] = (copy.at(-1) ?? 0) ^ 1;
    yield { change: 'with a wrong checksum', changed: copy };
  }
  if (zlib !== undefined) {
    const wrong = Buffer.from(data);
    wrong[wrong.length - 1] = (wrong.at(-1) ?? 0) ^ 1;
    yield { change: 'with a wrong checksum of its stream', changed: write(wrong) };
    yield { change: 'without the checksum of its stream', changed: write(data.subarray(0, -4)) };
    const start = Buffer.from(data);
    start[zlib] = 0x08;
    start[zlib + 1] = 0x1d;
    yield { change: 'with the smallest window of its stream', changed: write(start) };
  }
}
