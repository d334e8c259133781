/*
 * npm run bench:event-loop: how long an upload can block the event loop of the server, and so all other users.
 * Costly pictures and forms are sent several times each. BENCH_ONLY, a regular
 * expression, selects some of them.
 */
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import { MAX_FILE_BYTES } from '../../src/uploads/upload-limits.js';
import type { LongestBlock } from './event-loop-probe.js';
import {
  filled,
  gif,
  jpegOfRestarts,
  jpegWith,
  noise,
  png,
  pngChunk,
  singleByteBlocks,
  webp,
  webpChunk,
  webpPixel,
} from '../support/hostile-pictures.js';
import { Bench, median, photograph, type Server } from './service-under-test.js';

const REPEATS = Number(process.env.BENCH_REPEATS ?? 5);
const ONLY = new RegExp(process.env.BENCH_ONLY ?? '');
const BAR_MS = 50;
/** The sizes up to which JPEG and WebP, and GIF, are cleaned on the event loop. */
const INLINE = { jpeg: 256 * 1024, gif: 64 * 1024 };
const COM = [0xff, 0xfe, 0, 2];
const NO_TABLES = [0xff, 0xdb, 0, 2];
const RESTART_INTERVAL = [0xff, 0xdd, 0, 4, 0, 0];

type Case = {
  readonly body: () => Buffer | Promise<Buffer>;
  /** The number of concurrent uploads. */
  readonly clients?: number;
  /** The number of first bytes that are sent singly. */
  readonly singly?: number;
  /** Without a token, the response comes before the body is read. */
  readonly anonymous?: boolean;
};

const BOUNDARY = '--bench\r\n';
const FILE = `${BOUNDARY}Content-Disposition: form-data; name="file"; filename="photo.jpg"\r\n\r\n`;
const APPOINTMENT = `${BOUNDARY}Content-Disposition: form-data; name="appointment_id"\r\n\r\n145\r\n`;
const END = '--bench--\r\n';

const form = (file: Buffer): Buffer =>
  Buffer.concat([Buffer.from(FILE), file, Buffer.from(`\r\n${APPOINTMENT}${END}`)]);
const file = (make: () => Buffer | Promise<Buffer>): Case => ({ body: async () => form(await make()) });

/** An animation of as many one-pixel frames as fit. */
async function animatedWebp(bytes: number): Promise<Buffer> {
  const frame = webpChunk('ANMF', Buffer.concat([Buffer.alloc(16), await webpPixel()]));
  return webp(0x02, Buffer.concat([webpChunk('ANIM', Buffer.alloc(6)), filled(frame, bytes - 60)]));
}

const unknownWebpChunks = async (bytes: number): Promise<Buffer> =>
  webp(0, Buffer.concat([filled(webpChunk('what', Buffer.alloc(0)), bytes - 100), await webpPixel()]));

const onePixelFrames = (bytes: number): Buffer =>
  gif(1, Buffer.of(2, 2, 0x44, 0x01), Math.floor((bytes - 20) / 15));

/** Frames of the codes clear, pixel and end, of twelve bits each. */
const widestCodes = (bytes: number): Buffer =>
  gif(1, Buffer.of(11, 5, 0x00, 0x08, 0x00, 0x01, 0x08), Math.floor((bytes - 20) / 18));

const halves = [...NO_TABLES, ...COM];

const CASES: Readonly<Record<string, Case>> = {
  idle: { body: () => Buffer.alloc(0), clients: 0 },
  '10 MiB, refused early': { body: () => form(Buffer.alloc(MAX_FILE_BYTES)), anonymous: true },
  '10 MiB that are no picture': file(() => Buffer.alloc(MAX_FILE_BYTES)),

  'JPEG, 200 KB': file(() => photograph(1278, 720, 82)),
  'JPEG, 12 MP': file(() => photograph(4000, 3000, 98)),
  'JPEG, 48 MP': file(() => noise(8000, 6000).jpeg({ quality: 60 }).toBuffer()),
  'JPEG, 49 MP, progressive': file(() =>
    noise(7000, 7000).jpeg({ quality: 50, progressive: true }).toBuffer(),
  ),
  'JPEG, empty comments': file(() => jpegWith(COM)),
  'JPEG, empty tables': file(() => jpegWith(NO_TABLES)),
  'JPEG, restart intervals': file(() => jpegWith(RESTART_INTERVAL)),
  'JPEG, empty tables and comments in turn': file(() => jpegWith(halves)),
  'JPEG, the same, just inline': file(() => jpegWith(halves, INLINE.jpeg)),
  'JPEG, the same, just not inline': file(() => jpegWith(halves, INLINE.jpeg + 16)),
  'JPEG, fill bytes': file(() => jpegWith([0xff])),
  'JPEG, 49 MP, a restart after every block': file(() => jpegOfRestarts(875)),
  'JPEG, 4 MP, the same, just inline': file(() => jpegOfRestarts(250)),

  'PNG, 9 MB': file(() => noise(1800, 1600, 30).png({ compressionLevel: 1 }).toBuffer()),
  'PNG, unknown chunks': file(() =>
    png({ width: 1, height: 1, depth: 8 }, { before: filled(pngChunk('what'), MAX_FILE_BYTES - 200) }),
  ),
  'PNG, empty image data chunks': file(() =>
    png({ width: 1, height: 1, depth: 8 }, { after: filled(pngChunk('IDAT'), MAX_FILE_BYTES - 200) }),
  ),
  'PNG, 48 MP of 16 bits': file(() => png({ width: 8000, height: 6000, depth: 16 })),
  'PNG, 64 MiB decoded': file(() => png({ width: 4000, height: 4000, depth: 8 })),
  'PNG, 4 MB decoded, of 4 kB': file(() => png({ width: 980, height: 980, depth: 8 })),
  'PNG, 48 MP, interlaced': file(() => noise(8000, 6000, 0).png({ progressive: true }).toBuffer()),

  'GIF, frames': file(() => onePixelFrames(MAX_FILE_BYTES)),
  'GIF, frames, just inline': file(() => onePixelFrames(INLINE.gif)),
  'GIF, frames of the widest codes': file(() => widestCodes(MAX_FILE_BYTES)),
  'GIF, the same, just inline': file(() => widestCodes(INLINE.gif)),
  'GIF, blocks of one byte': file(() => gif(2270, singleByteBlocks(2270 ** 2), 1)),

  'WebP, unknown chunks': file(() => unknownWebpChunks(MAX_FILE_BYTES)),
  'WebP, the same, just inline': file(() => unknownWebpChunks(INLINE.jpeg)),
  'WebP, frames': file(() => animatedWebp(MAX_FILE_BYTES)),
  'WebP, frames, just inline': file(() => animatedWebp(INLINE.jpeg)),
  'WebP, lossless': file(() => noise(2000, 1500).webp({ lossless: true, effort: 0 }).toBuffer()),

  'form, nearly boundaries': file(() => filled('\r\n--benc', MAX_FILE_BYTES)),
  'form, carriage returns': file(() => filled('\r', MAX_FILE_BYTES)),
  'form, empty parts': { body: () => filled('\r\n--bench', MAX_FILE_BYTES) },
  'form, parts without a name': { body: () => filled('--bench\r\n\r\nx\r\n', MAX_FILE_BYTES) },
  'form, fields': { body: () => filled(APPOINTMENT.replace('appointment_id', 'a'), MAX_FILE_BYTES) },
  'form, headers': { body: () => filled(`${BOUNDARY}${'a:b\r\n'.repeat(2000)}\r\n\r\n`, MAX_FILE_BYTES) },
  'form, 100 kB byte by byte': { ...file(() => photograph(1278, 720, 82)), singly: 100_000 },

  '8 at once: 12 MP': { ...file(() => photograph(4000, 3000, 98)), clients: 8 },
  '8 at once: just inline': { ...file(() => jpegWith(halves, INLINE.jpeg)), clients: 8 },
  '8 at once: GIF frames': { ...file(() => onePixelFrames(MAX_FILE_BYTES)), clients: 8 },
  '8 at once: empty parts': { body: () => filled('\r\n--bench', MAX_FILE_BYTES), clients: 8 },
};

async function send(
  server: Server,
  token: string,
  body: Buffer,
  { anonymous, singly = 0 }: Case,
): Promise<string> {
  const post = request({
    port: server.port,
    method: 'POST',
    path: '/api/upload/chat-image',
    agent: false,
    headers: {
      ...(anonymous ? {} : { authorization: `Bearer ${token}` }),
      'content-type': 'multipart/form-data; boundary=bench',
      'content-length': body.length,
    },
  });
  const answered = once(post, 'response') as Promise<[IncomingMessage]>;
  post.setNoDelay(true);
  for (let at = 0; at < singly; at += 1) {
    await new Promise((resolve) => post.write(body.subarray(at, at + 1), resolve));
  }
  post.end(body.subarray(singly));
  try {
    const [answer] = await answered;
    answer.resume();
    await once(answer, 'end');
    return String(answer.statusCode);
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : 'none';
  }
}

async function longestBlock({ process: child }: Server): Promise<LongestBlock> {
  const report = once(child, 'message') as Promise<[LongestBlock]>;
  child.send('report');
  return (await report)[0];
}

const bench = await Bench.open();
try {
  const server = await bench.start('this service', 'dist/main.js', {
    NODE_OPTIONS: `--import=${new URL('./event-loop-probe.js', import.meta.url).href}`,
    // Duplicates are stored too.
    UPLOAD_DEDUPE_SECONDS: '0',
  });
  console.log(`storage: ${bench.storage}; ${REPEATS} of each; the median and, in brackets, the most, in ms`);
  const rows: Record<string, string>[] = [];
  for (const [name, one] of Object.entries(CASES).filter(([title]) => ONLY.test(title))) {
    const body = await one.body();
    const blocks: LongestBlock[] = [];
    const answers = new Set<string>();
    for (let repeat = 0; repeat < REPEATS; repeat += 1) {
      await setTimeout(200);
      await longestBlock(server);
      const clients = Array.from({ length: one.clients ?? 1 }, () =>
        send(server, bench.tokenOf(1), body, one),
      );
      for (const status of await Promise.all(clients)) answers.add(status);
      await setTimeout(50);
      blocks.push(await longestBlock(server));
    }
    const summary = (of: (block: LongestBlock) => number): string =>
      `${median(blocks.map(of)).toFixed(1)} (${Math.max(...blocks.map(of)).toFixed(1)})`;
    rows.push({
      case: name,
      kB: (body.length / 1000).toFixed(0),
      answer: [...answers].join(' '),
      'longest block': summary(({ milliseconds }) => milliseconds),
      'on processor': summary(({ onProcessor }) => onProcessor),
      collecting: summary(({ collecting }) => collecting),
      [`${BAR_MS} ms`]: median(blocks.map(({ milliseconds }) => milliseconds)) <= BAR_MS ? 'met' : 'NOT MET',
    });
  }
  console.table(rows);
} finally {
  await bench.close();
}
process.exit(0);
