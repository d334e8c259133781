import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join, relative, sep } from 'node:path';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import sharp from 'sharp';
import { ImagePreparer } from '../../src/pictures/image-preparer.js';
import { UploadBudget } from '../../src/uploads/upload-budget.js';
import { AppError } from '../../src/errors/app-error.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { phonePhoto } from '../support/pictures.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

/*
 * Inputs nobody would write by hand. The same ones each time, so that a red run is never luck:
 *   FUZZ_RUNS=20   as many times more inputs, with a seed drawn for the occasion and printed
 *   FUZZ_SEED=123  that seed again
 * A failure names its seed and the path to the smallest input that shows it.
 */
const FACTOR = Number(process.env.FUZZ_RUNS ?? 1);
const SEED = fuzzSeed();

/** How long an answer may take, and a picture. */
const LIMIT_MS = 5000;
/** Shrinking a failure that is a hang takes one such limit a step: it is cut short here. */
const PROPERTY_LIMIT_MS = 60_000 * FACTOR;

function fuzzSeed(): number {
  if (process.env.FUZZ_SEED !== undefined) return Number(process.env.FUZZ_SEED);
  return process.env.FUZZ_RUNS === undefined ? 20_251_105 : Math.floor(Math.random() * 2 ** 31);
}

function holds<T extends [unknown, ...unknown[]]>(
  property: fc.IAsyncProperty<T>,
  numRuns: number,
  examples: T[] = [],
): Promise<void> {
  return fc.assert(property, {
    seed: SEED,
    examples,
    numRuns: Math.ceil(numRuns * FACTOR),
    interruptAfterTimeLimit: PROPERTY_LIMIT_MS,
    markInterruptAsFailure: true,
  });
}

beforeAll(() => {
  if (process.env.FUZZ_RUNS !== undefined) process.stderr.write(`FUZZ_SEED=${SEED}\n`);
});

// --- A client that can be as wrong as it likes -------------------------------------------------------------------

type Answer = {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
};

class Client {
  readonly socket: Socket;
  private received = Buffer.alloc(0);
  private ended = false;

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.socket.on('data', (chunk: Buffer) => (this.received = Buffer.concat([this.received, chunk])));
    // A client that is in the wrong may be cut off: what counts is what was answered before.
    this.socket.on('error', () => (this.ended = true));
    this.socket.on('end', () => (this.ended = true));
    this.socket.on('close', () => (this.ended = true));
  }

  get open(): boolean {
    return !this.ended && this.socket.writable;
  }

  /** Each piece in a write of its own, and with it, mostly, in a packet of its own. */
  async send(pieces: readonly Buffer[]): Promise<void> {
    for (const piece of pieces) {
      if (!this.socket.writable) return;
      if (!this.socket.write(piece)) {
        await eventually(() => !this.socket.writable || !this.socket.writableNeedDrain, 'the server reads');
      }
      await setImmediate();
    }
  }

  /** The next answer; nothing when the connection has ended without one. */
  async answer(): Promise<Answer | undefined> {
    let answer: Answer | undefined;
    await eventually(() => {
      answer ??= this.take();
      return answer !== undefined || this.ended;
    }, 'an answer');
    return answer ?? this.take();
  }

  /** Every answer until the server closes the connection, which it has to. */
  async answersUntilClosed(): Promise<Answer[]> {
    await eventually(() => this.ended, 'the end of the connection');
    const answers: Answer[] = [];
    for (let answer = this.take(); answer; answer = this.take()) answers.push(answer);
    return answers;
  }

  private take(): Answer | undefined {
    const end = this.received.indexOf('\r\n\r\n');
    if (end === -1) return undefined;
    const [start = '', ...lines] = this.received.toString('latin1', 0, end).split('\r\n');
    const headers = new Map(
      lines.map((line) => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
      }),
    );
    const length = headers.get('content-length');
    if (length === undefined) throw new Error(`An answer without a length: ${start}`);
    const bodyEnd = end + 4 + Number(length);
    if (this.received.length < bodyEnd) return undefined;
    const body = this.received.toString('utf8', end + 4, bodyEnd);
    this.received = this.received.subarray(bodyEnd);
    return { status: Number(start.split(' ')[1]), headers, body };
  }
}

async function eventually(condition: () => boolean, what: string, withinMs = LIMIT_MS): Promise<void> {
  for (const deadline = Date.now() + withinMs; !condition();) {
    if (Date.now() > deadline) throw new Error(`Waited ${withinMs} ms in vain for ${what}.`);
    await setTimeout(2);
  }
}

// --- Multipart forms, from right to absurd -----------------------------------------------------------------------

type Body =
  | { readonly of: 'picture'; readonly trailer: string }
  | { readonly of: 'text'; readonly text: string }
  | { readonly of: 'bytes'; readonly bytes: Uint8Array }
  | { readonly of: 'zeros'; readonly count: number }
  | { readonly of: 'parts'; readonly boundary: string; readonly parts: readonly Part[] };

type Part = {
  /** Each character a byte. */
  readonly headers: readonly string[];
  readonly flood: number;
  readonly body: Body;
  /** In front of this part; usually the form's own. */
  readonly boundary: string | undefined;
};

type Form = {
  readonly boundary: string;
  readonly contentType: string | undefined;
  readonly newline: string;
  readonly preamble: string;
  readonly parts: readonly Part[];
  readonly terminator: 'right' | 'missing' | 'one dash' | 'no line break' | 'twice' | 'early';
  readonly epilogue: string;
};

const APPOINTMENT_PART = 'Content-Disposition: form-data; name="appointment_id"';
const FILE_PART = 'Content-Disposition: form-data; name="file"; filename="photo.jpg"';

const oddText: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(
    'file',
    'appointment_id',
    '',
    '../../etc/passwd',
    'C:\\photos\\..',
    'a\0b.jpg',
    'a"b.jpg',
    'a\\"b',
    "UTF-8''%F0%9F%A9%B9%00%zz",
    'a\r\nSet-Cookie: b',
    'a\nb',
    'a\rb',
    '\u202egpj.exe',
    '🩹'.repeat(200),
    '\xed\xa0\x80',
    'x'.repeat(9000),
    '__proto__',
    'constructor',
    '; filename=',
    "'",
  ),
  fc.string({ unit: 'binary', maxLength: 12 }),
  fc.string({ maxLength: 12 }),
);

/** As UTF-8, each byte a character, the way clients put names into a header. */
const utf8 = (text: string): string => Buffer.from(text).toString('latin1');

const disposition: fc.Arbitrary<string> = fc.oneof(
  fc
    .tuple(oddText, oddText)
    .map(([name, file]) => `form-data; name="${utf8(name)}"; filename="${utf8(file)}"`),
  oddText.map((file) => `form-data; name="file"; filename="${utf8(file)}"`),
  oddText.map(
    (file) => `form-data; name="file"; filename*=UTF-8''${encodeURIComponent(file.toWellFormed())}`,
  ),
  oddText.map((file) => `form-data; filename=${utf8(file)}; name=file`),
  oddText.map((name) => `form-data; name="${utf8(name)}"`),
  oddText.map((name) => `form-data; name=${utf8(name)}`),
  fc.constantFrom(
    'form-data',
    '',
    ';;;=;*=',
    'attachment; name="file"; filename="a.jpg"',
    'form-data; name="file"; name="appointment_id"',
    'form-data; name="appointment_id"; filename="145"',
    'FORM-DATA; NAME="file"; FILENAME="a.jpg"',
    "form-data; name*=UTF-8''file; filename*=x'y'%ff%fe",
    'form-data; name="file',
  ),
  oddText.map(utf8),
);

const partHeader: fc.Arbitrary<string> = fc.oneof(
  { weight: 4, arbitrary: disposition.map((value) => `Content-Disposition: ${value}`) },
  {
    weight: 3,
    arbitrary: fc.constantFrom(
      'Content-Type: image/jpeg',
      'Content-Type: application/octet-stream',
      'Content-Type: text/plain; charset=utf-16le',
      'Content-Type: text/plain; charset=base64',
      'Content-Type: text/plain; charset=no-such',
      'Content-Type: text/plain; charset',
      'Content-Type: ;',
      'Content-Type: multipart/mixed; boundary=inner',
      'Content-Transfer-Encoding: base64',
      'Content-Transfer-Encoding: quoted-printable',
      'Content-Length: 3',
      'Content-Length: -1',
      'no colon at all',
      ': no name',
      ' folded',
      '__proto__: x',
    ),
  },
  { weight: 1, arbitrary: oddText.map(utf8) },
);

const text: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(
    String(APPOINTMENT),
    ` ${APPOINTMENT}\n`,
    '999',
    '0145',
    '-145',
    '1.45e2',
    `${APPOINTMENT}\0`,
    '9007199254740993',
    '٣',
    '',
    '1'.repeat(1024),
    '1'.repeat(1025),
    '1'.repeat(70_000),
    '--b',
    '\r\n--b',
    '\r\n--b--',
    '\r\n--b-',
  ),
  fc.string({ unit: 'binary', maxLength: 30 }),
);

const leaf: fc.Arbitrary<Body> = fc.oneof(
  {
    weight: 3,
    // What follows the end of a picture is cut off, and makes it another upload than the one before.
    arbitrary: fc.string({ minLength: 4, maxLength: 8 }).map((trailer): Body => ({ of: 'picture', trailer })),
  },
  { weight: 3, arbitrary: text.map((value): Body => ({ of: 'text', text: value })) },
  { weight: 2, arbitrary: fc.uint8Array({ maxLength: 300 }).map((bytes): Body => ({ of: 'bytes', bytes })) },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(0, 1024, 8192, 20_000, 65_536, 200_000)
      .map((count): Body => ({ of: 'zeros', count })),
  },
);

const validFile: fc.Arbitrary<Part> = leaf
  .filter(({ of }) => of === 'picture')
  .map((body) => ({ headers: [FILE_PART, 'Content-Type: image/jpeg'], flood: 0, body, boundary: undefined }));

const validAppointment: fc.Arbitrary<Part> = fc.constant({
  headers: [APPOINTMENT_PART],
  flood: 0,
  body: { of: 'text', text: String(APPOINTMENT) },
  boundary: undefined,
});

const oddPart = (body: fc.Arbitrary<Body>): fc.Arbitrary<Part> =>
  fc.record({
    headers: fc.array(partHeader, { maxLength: 4 }),
    flood: fc.oneof(
      { weight: 8, arbitrary: fc.constant(0) },
      { weight: 1, arbitrary: fc.constantFrom(19, 20, 21, 500, 5000) },
    ),
    body,
    boundary: fc.oneof(
      { weight: 8, arbitrary: fc.constant(undefined) },
      { weight: 1, arbitrary: fc.constantFrom('other', 'b-', 'B', '', 'b--', 'bb') },
    ),
  });

const nested: fc.Arbitrary<Body> = fc.record({
  of: fc.constant('parts' as const),
  boundary: fc.constantFrom('inner', 'b', 'b-inner'),
  parts: fc.array(fc.oneof(validFile, validAppointment, oddPart(leaf)), { maxLength: 3 }),
});

const anyBody = fc.oneof({ weight: 6, arbitrary: leaf }, { weight: 1, arbitrary: nested });

/** A known field with an odd body, which is where a form goes wrong most deeply. */
const oddField: fc.Arbitrary<Part> = fc
  .tuple(fc.constantFrom(APPOINTMENT_PART, FILE_PART), anyBody)
  .map(([header, body]) => ({ headers: [header], flood: 0, body, boundary: undefined }));

const parts: fc.Arbitrary<Part[]> = fc.oneof(
  { weight: 2, arbitrary: fc.tuple(validFile, validAppointment) },
  { weight: 1, arbitrary: fc.tuple(validAppointment, validFile) },
  {
    weight: 5,
    arbitrary: fc.array(fc.oneof(validFile, validAppointment, oddField, oddPart(anyBody)), { maxLength: 5 }),
  },
  {
    weight: 1,
    arbitrary: fc.array(fc.oneof(validAppointment, oddPart(leaf)), { minLength: 8, maxLength: 30 }),
  },
);

/** Usually a value that does no harm, so that the other oddities come to bear. */
const mostly = <T, U>(usual: T, odd: fc.Arbitrary<U>): fc.Arbitrary<T | U> =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: odd });

const form: fc.Arbitrary<Form> = fc.record({
  boundary: mostly('b', fc.constantFrom('', '-', '--', 'x'.repeat(300), "a'()+_,-./:=?b", 'b b')),
  contentType: mostly(
    'multipart/form-data; boundary="{}"',
    fc.constantFrom(
      undefined,
      'multipart/form-data',
      'multipart/form-data; boundary=',
      'multipart/form-data; boundary=wrong',
      'multipart/form-data; boundary={}; boundary=wrong',
      'Multipart/Form-Data; charset=utf-8; BOUNDARY={}',
      "multipart/form-data; boundary*=UTF-8''{}",
      'multipart/form-data ;;; boundary',
      'multipart/form-data; boundary="{}',
      'multipart/form-database; boundary={}',
      'multipart/mixed; boundary={}',
      'application/x-www-form-urlencoded',
      'application/json',
    ),
  ),
  newline: mostly('\r\n', fc.constantFrom('\n', '\r', '\r\r\n', '')),
  preamble: mostly('', fc.constantFrom('This is a message with several parts.', '\r\n', '\0', '-', '--')),
  parts,
  terminator: mostly<Form['terminator'], Form['terminator']>(
    'right',
    fc.constantFrom('missing', 'one dash', 'no line break', 'twice', 'early'),
  ),
  epilogue: mostly('', fc.constantFrom('\r\n', 'the end', '\r\n--b\r\n\r\nx', 'x'.repeat(70_000))),
});

const plainPart = (headers: readonly string[], body: Body): Part => ({
  headers,
  flood: 0,
  body,
  boundary: undefined,
});

/** Forms that once went wrong: a part that is no field, and larger than what the parser buffers of it. */
const FOUND_BEFORE: [Form, Framing, number[], number][] = [20_000, 60_000].map((count) => [
  {
    boundary: 'b',
    contentType: 'multipart/form-data; boundary={}',
    newline: '\r\n',
    preamble: '',
    parts: [
      plainPart([FILE_PART], { of: 'picture', trailer: 'skipped' }),
      plainPart([APPOINTMENT_PART], { of: 'text', text: String(APPOINTMENT) }),
      plainPart(['X-No-Disposition: a'], { of: 'zeros', count }),
    ],
    terminator: 'right',
    epilogue: '',
  },
  { by: 'length', delta: 0 },
  [],
  PATIENT,
]);

function bytesOf(body: Body, newline: string, picture: Buffer): Buffer {
  switch (body.of) {
    case 'picture':
      return Buffer.concat([picture, Buffer.from(body.trailer)]);
    case 'text':
      return Buffer.from(body.text);
    case 'bytes':
      return Buffer.from(body.bytes);
    case 'zeros':
      return Buffer.alloc(body.count);
    case 'parts':
      return Buffer.concat([
        ...body.parts.map((part) => partBytes(part, body.boundary, newline, picture)),
        Buffer.from(`--${body.boundary}--`),
      ]);
  }
}

function partBytes(part: Part, boundary: string, newline: string, picture: Buffer): Buffer {
  const flood = Array.from({ length: part.flood }, (_, index) => `X-${index}: ${index}`);
  const head = [`--${part.boundary ?? boundary}`, ...flood, ...part.headers, '', ''].join(newline);
  return Buffer.concat([
    Buffer.from(head, 'latin1'),
    bytesOf(part.body, newline, picture),
    Buffer.from(newline),
  ]);
}

function formBytes(
  { boundary, newline, preamble, parts, terminator, epilogue }: Form,
  picture: Buffer,
): Buffer {
  const last = `--${boundary}--${newline}`;
  const end = {
    right: last,
    missing: '',
    'one dash': `--${boundary}-${newline}`,
    'no line break': `--${boundary}--`,
    twice: last + last,
    early: '',
  }[terminator];
  return Buffer.concat([
    Buffer.from(preamble ? preamble + newline : ''),
    Buffer.from(terminator === 'early' ? last : ''),
    ...parts.map((part) => partBytes(part, boundary, newline, picture)),
    Buffer.from(end + epilogue),
  ]);
}

// --- How a body is framed, and cut into packets ------------------------------------------------------------------

type Framing =
  | { readonly by: 'length'; readonly delta: number }
  | { readonly by: 'chunks'; readonly cuts: readonly number[]; readonly flaw: ChunkFlaw };

type ChunkFlaw = 'none' | 'extension' | 'trailer' | 'bad size' | 'no end';

const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 });

const framing: fc.Arbitrary<Framing> = fc.oneof(
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

function cut(bytes: Buffer, at: readonly number[]): Buffer[] {
  const positions = [0, ...at.map((share) => Math.floor(share * bytes.length)), bytes.length];
  positions.sort((a, b) => a - b);
  return positions
    .slice(1)
    .map((end, index) => bytes.subarray(positions[index], end))
    .filter(({ length }) => length);
}

/** The header that announces the body, and the body as it is sent. */
function framed(body: Buffer, framing: Framing): { header: string; sent: Buffer } {
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

// --- What every answer is held against ---------------------------------------------------------------------------

const REFUSALS: Readonly<Record<string, number>> = {
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  APPOINTMENT_NOT_FOUND: 404,
  FILE_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  VALIDATION_FAILED: 422,
  INVALID_IMAGE: 422,
};

function expectContract(answer: Answer): void {
  const { headers } = answer;
  expect(headers.get('content-type')).toMatch(/^application\/json/);
  expect(headers.get('cache-control')).toBe('no-store');
  expect(headers.get('x-request-id')).toMatch(/^[\w-]{8,64}$/);
  if (answer.status === 200) {
    const { success, data } = JSON.parse(answer.body) as { success: boolean; data: { name: string } };
    expect(success).toBe(true);
    expect(data.name).toMatch(/^[^\p{C}]{1,255}$/u);
    return;
  }
  const { message, errors, ...rest } = JSON.parse(answer.body) as ErrorBodyDto;
  expect(rest).toEqual({
    success: false,
    error_code: expect.any(String),
    request_id: headers.get('x-request-id'),
  });
  expect([rest.error_code, answer.status]).toEqual([rest.error_code, REFUSALS[rest.error_code]]);
  expect(message).toMatch(/^[A-Z].{5,100}[.]$/);
  for (const sentences of Object.values(errors ?? {})) expect(sentences.length).toBeGreaterThan(0);
}

// --- Pictures, and what can happen to them -----------------------------------------------------------------------

/** Somewhere in a file: its structure is near the start, so half of the blows fall there. */
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

/** Lengths and sizes that lie, markers, and anything. */
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

function mutate(original: Buffer, mutations: readonly Mutation[], others: readonly Buffer[]): Buffer {
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

/** Cuts a PNG into its signature and chunks, a JPEG into its segments, a WebP into its chunks; anything else not at all. */
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

/** Small pictures of each format. Always the same bytes, unlike noise, so that a seed says everything. */
async function smallPictures(): Promise<Buffer[]> {
  const [width, height, frames] = [40, 30, 3];
  const pixels = Buffer.alloc(width * height * frames * 3);
  for (let at = 0, state = 1; at < pixels.length; at += 1) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    pixels[at] = ((at / 7) % 200) + (state >>> 28);
  }
  const still = sharp(pixels.subarray(0, width * height * 3), { raw: { width, height, channels: 3 } });
  const animation = sharp(pixels, {
    raw: { width, height: height * frames, channels: 3, pageHeight: height },
  });
  return Promise.all([
    still.clone().jpeg().withMetadata({ orientation: 6 }).toBuffer(),
    still.clone().jpeg({ progressive: true, chromaSubsampling: '4:4:4' }).toBuffer(),
    still.clone().toColourspace('cmyk').jpeg().withIccProfile('cmyk').toBuffer(),
    still.clone().png().withMetadata({ orientation: 3 }).toBuffer(),
    still.clone().png({ progressive: true, palette: true }).withIccProfile('srgb').toBuffer(),
    still.clone().gif().toBuffer(),
    animation.clone().gif({ loop: 2, delay: 50 }).toBuffer(),
    still.clone().webp().withMetadata({ orientation: 8 }).toBuffer(),
    still.clone().ensureAlpha(0.5).webp({ lossless: true }).toBuffer(),
    still.clone().ensureAlpha(0.5).webp().withIccProfile('p3').toBuffer(),
    animation.clone().webp({ loop: 2, delay: 50 }).toBuffer(),
  ]);
}

const mutatedPicture = fc.tuple(fc.nat(20), fc.array(mutation, { minLength: 1, maxLength: 6 }));

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

// -----------------------------------------------------------------------------------------------------------------

describe('uploads that nobody meant', () => {
  let test: TestApp;
  let pictures: Buffer[];
  let kept: Client | undefined;
  let requests = 0;

  beforeAll(async () => {
    [test, pictures] = await Promise.all([TestApp.start(), smallPictures()]);
  });

  // Jest itself fails the test that is running when a promise is rejected and nobody listens.
  afterEach(async () => {
    kept?.socket.destroy();
    kept = undefined;
    const budget = test.app.get(UploadBudget);
    await eventually(() => budget.inUse === 0, 'the memory of uploads whose connections are closed');
    const health = await test.fetch('/api/health');
    expect(health.status).toBe(200);
    const rows = await test.database.query<{ file_path: string; state: string }[]>(
      'SELECT file_path, state FROM chat_images ORDER BY file_path',
    );
    expect(rows.filter(({ state }) => state !== 'stored')).toEqual([]);
    expect((await storedObjects()).sort()).toEqual(rows.map(({ file_path }) => file_path).sort());
    expect(test.logLines.filter((line) => /"level":"(error|fatal)"|"status":5/.test(line))).toEqual([]);
  });

  afterAll(() => test.stop());

  /** What lies in the storage's folder, leftovers of half-written files among it. */
  async function storedObjects(): Promise<string[]> {
    if (test.settings.storage.driver !== 'local') throw new Error('This suite runs on the local storage.');
    const { directory } = test.settings.storage;
    const entries = await readdir(directory, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(directory, join(entry.parentPath, entry.name)).split(sep).join('/'))
      .filter((name) => !name.startsWith('properties/'))
      .map((name) => name.replace(/^objects\//, ''));
  }

  type Sent = { readonly client: Client; readonly requestId: string };

  /** Sends an upload on the connection that the last one has left open, as clients do. */
  async function send(
    as: number | undefined,
    headers: string[],
    body: Buffer,
    cuts: number[],
  ): Promise<Sent> {
    const client = kept?.open ? kept : new Client(test.settings.port);
    kept = undefined;
    requests += 1;
    const requestId = `fuzz-${String(requests).padStart(8, '0')}`;
    const head = [
      'POST /api/upload/chat-image HTTP/1.1',
      'Host: localhost',
      `X-Request-Id: ${requestId}`,
      ...(as === undefined ? [] : [`Authorization: Bearer ${test.token(as)}`]),
      ...headers,
      '',
      '',
    ];
    await client.send(cut(Buffer.concat([Buffer.from(head.join('\r\n'), 'latin1'), body]), cuts));
    return { client, requestId };
  }

  /** An answer that carries another request's id is an answer to another request, unless this was no HTTP. */
  function expectOwnAnswer(answer: Answer, requestId: string): void {
    expectContract(answer);
    const isOwn = answer.headers.get('x-request-id') === requestId;
    expect(isOwn || (answer.status === 422 && answer.headers.get('connection') === 'close')).toBe(true);
  }

  it(
    'any form, in any framing and packets, gets an answer of the contract',
    async () => {
      const statuses = new Map<number, number>();
      await holds(
        fc.asyncProperty(
          form,
          framing,
          cuts,
          mostly(PATIENT, fc.constantFrom(DOCTOR, OUTSIDER, undefined)),
          async (fields, frame, packets, as) => {
            const body = formBytes(fields, pictures[3] ?? Buffer.alloc(0));
            const { header, sent } = framed(body, frame);
            const type = fields.contentType?.replace('{}', fields.boundary);
            const headers = [header, ...(type === undefined ? [] : [`Content-Type: ${type}`])];
            const { client, requestId } = await send(as, headers, sent, packets);
            try {
              const isWhole =
                frame.by === 'length' ? frame.delta <= 0 : !['bad size', 'no end'].includes(frame.flaw);
              // What never comes to its end gets at least the end of its connection, soon after the client's own.
              if (!isWhole && frame.by === 'length') client.socket.end();
              if (!isWhole && frame.by === 'chunks' && frame.flaw === 'no end') client.socket.end();
              const answers = isWhole ? [await client.answer()] : await client.answersUntilClosed();
              for (const answer of answers) {
                if (!answer) throw new Error('The connection ended without an answer.');
                expectOwnAnswer(answer, requestId);
                if (as === OUTSIDER || as === undefined) expect(answer.status).not.toBe(200);
                statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
              }
              const isExact = isWhole && !(frame.by === 'length' && frame.delta < 0);
              if (isExact && answers[0]?.headers.get('connection') !== 'close') kept = client;
            } finally {
              if (kept !== client) client.socket.destroy();
            }
          },
        ),
        250,
        FOUND_BEFORE,
      );
      // The generator is worth something only while it reaches every kind of answer.
      expect([...statuses.keys()].sort()).toEqual(expect.arrayContaining([200, 401, 403, 415, 422]));
    },
    PROPERTY_LIMIT_MS + 30_000,
  );

  it(
    'any mutated picture is stored as something that decodes and stays as it is, or refused for what it is',
    async () => {
      const preparer = test.app.get(ImagePreparer);
      const sender = { userId: PATIENT, left: new AbortController().signal };
      const originals = [...pictures, await phonePhoto()];
      let accepted = 0;
      await holds(
        fc.asyncProperty(mutatedPicture, async ([index, mutations]) => {
          const bytes = mutate(originals[index % originals.length] ?? Buffer.alloc(0), mutations, originals);
          const started = performance.now();
          const prepared = await preparer.prepare([Buffer.from(bytes)], sender).catch((error: unknown) => {
            if (error instanceof AppError && error.code === 'INVALID_IMAGE') return undefined;
            throw error;
          });
          expect(performance.now() - started).toBeLessThan(LIMIT_MS);
          if (!prepared) return;
          accepted += 1;
          const stored = Buffer.concat(prepared.pieces);
          expect(prepared).toMatchObject({
            sha256: sha256(stored),
            sha256Sent: sha256(bytes),
            size: stored.length,
          });
          expect(stored.length).toBeLessThanOrEqual(bytes.length + 64);
          expect([prepared.width, prepared.height].every((side) => side > 0)).toBe(true);
          await sharp(stored, { animated: true, failOn: 'error' }).stats();
          const again = await preparer.prepare([Buffer.from(stored)], sender);
          expect(Buffer.concat(again.pieces).equals(stored)).toBe(true);
          expect({ ...again, pieces: [] }).toEqual({ ...prepared, sha256Sent: prepared.sha256, pieces: [] });
        }),
        600,
      );
      expect(accepted).toBeGreaterThan(20);
    },
    PROPERTY_LIMIT_MS + 30_000,
  );

  it(
    'a mutated picture over HTTP is a 200 or a 422, and what is stored is what was prepared',
    async () => {
      await holds(
        fc.asyncProperty(mutatedPicture, cuts, async ([index, mutations], packets) => {
          const bytes = mutate(pictures[index % pictures.length] ?? Buffer.alloc(0), mutations, pictures);
          const head = `--b\r\n${APPOINTMENT_PART}\r\n\r\n${APPOINTMENT}\r\n--b\r\n${FILE_PART}\r\n\r\n`;
          const body = Buffer.concat([Buffer.from(head), bytes, Buffer.from('\r\n--b--\r\n')]);
          const headers = [`Content-Length: ${body.length}`, 'Content-Type: multipart/form-data; boundary=b'];
          const { client, requestId } = await send(PATIENT, headers, body, packets);
          const answer = await client.answer();
          if (!answer) throw new Error('The connection ended without an answer.');
          expectOwnAnswer(answer, requestId);
          expect([200, 422]).toContain(answer.status);
          kept = client;
          if (answer.status === 200) {
            const { data } = JSON.parse(answer.body) as { data: { signed_url: string; size: number } };
            const stored = Buffer.from(await (await fetch(data.signed_url)).arrayBuffer());
            expect(stored.length).toBe(data.size);
            await sharp(stored, { animated: true, failOn: 'error' }).stats();
          } else {
            expect(JSON.parse(answer.body)).toMatchObject({ error_code: 'INVALID_IMAGE' });
          }
        }),
        40,
      );
    },
    PROPERTY_LIMIT_MS + 30_000,
  );
});
