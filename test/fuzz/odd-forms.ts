import fc from 'fast-check';
import { mostly } from '../support/fuzz-property.js';
import type { Framing } from '../support/odd-framing.js';
import { APPOINTMENT, PATIENT } from '../support/test-app.js';

type Body =
  | { readonly of: 'picture'; readonly trailer: string }
  | { readonly of: 'text'; readonly text: string }
  | { readonly of: 'bytes'; readonly bytes: Uint8Array }
  | { readonly of: 'zeros'; readonly count: number }
  | { readonly of: 'parts'; readonly boundary: string; readonly parts: readonly Part[] };

type Part = {
  /** Each character is a byte. */
  readonly headers: readonly string[];
  readonly flood: number;
  readonly body: Body;
  /** The boundary before this part; undefined for the form's own. */
  readonly boundary: string | undefined;
};

export type Form = {
  readonly boundary: string;
  readonly contentType: string | undefined;
  readonly newline: string;
  readonly preamble: string;
  readonly parts: readonly Part[];
  readonly terminator: 'right' | 'missing' | 'one dash' | 'no line break' | 'twice' | 'early';
  readonly epilogue: string;
};

export const APPOINTMENT_PART = 'Content-Disposition: form-data; name="appointment_id"';
export const FILE_PART = 'Content-Disposition: form-data; name="file"; filename="photo.jpg"';

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

/** UTF-8 with a character per byte, as clients write names into headers. */
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
    // Bytes after the end of a picture are removed, but make it a new upload.
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

/** A known field with an odd body, which gets deepest into the form reader. */
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

export const form: fc.Arbitrary<Form> = fc.record({
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

/** Forms that once failed: a part that is not a field, and is larger than the parser's buffer. */
export const FOUND_BEFORE: [Form, Framing, number[], number][] = [20_000, 60_000].map((count) => [
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

export function formBytes(
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
