import { expect } from '@jest/globals';
import { readdir } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import sharp from 'sharp';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { eventually } from './eventually.js';
import { LIMIT_MS } from './fuzz-property.js';
import { cut } from './odd-framing.js';
import { type Answer, Client, inUse } from './raw-clients.js';
import { TestApp } from './test-app.js';

const REFUSALS: Readonly<Record<string, number>> = {
  MALFORMED_REQUEST: 400,
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  APPOINTMENT_NOT_FOUND: 404,
  FILE_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  VALIDATION_FAILED: 422,
  INVALID_IMAGE: 422,
};

/** Checks a response against the documented form. */
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

/** The service, and a connection that odd uploads share. */
export class FuzzedService {
  private kept: Client | undefined;
  private requests = 0;

  private constructor(
    readonly test: TestApp,
    readonly pictures: readonly Buffer[],
  ) {}

  static async start(): Promise<FuzzedService> {
    const [test, pictures] = await Promise.all([TestApp.start(), smallPictures()]);
    return new FuzzedService(test, pictures);
  }

  stop(): Promise<void> {
    return this.test.stop();
  }

  /** Expects a healthy service, and nothing but stored pictures, after odd uploads. */
  async expectWell(): Promise<void> {
    this.kept?.socket.destroy();
    this.kept = undefined;
    await eventually(() => inUse(this.test) === 0, 'the memory of uploads whose connections are closed');
    const health = await this.test.fetch('/api/health');
    expect(health.status).toBe(200);
    const rows = await this.test.database.query<
      { file_path: string; state: string; thumbnail: string | null }[]
    >(
      `SELECT file_path, state,
         CASE WHEN thumbnail_size IS NOT NULL THEN chat_image_thumbnail_key(file_path, mime_type) END AS thumbnail
       FROM chat_images ORDER BY file_path`,
    );
    expect(rows.filter(({ state }) => state !== 'stored')).toEqual([]);
    const keys = rows.flatMap(({ file_path, thumbnail }) => [
      file_path,
      ...(thumbnail === null ? [] : [thumbnail]),
    ]);
    expect((await this.storedObjects()).sort()).toEqual(keys.sort());
    expect(this.test.logLines.filter((line) => /"level":"(error|fatal)"|"status":5/.test(line))).toEqual([]);
  }

  /** Sends an upload on the open connection of the last upload, as clients do. */
  async send(
    as: number | undefined,
    headers: readonly string[],
    body: Buffer,
    cuts: readonly number[],
  ): Promise<{ client: Client; requestId: string }> {
    const client = this.kept?.open ? this.kept : new Client(this.test);
    this.kept = undefined;
    this.requests += 1;
    const requestId = `fuzz-${String(this.requests).padStart(8, '0')}`;
    const head = [
      'POST /api/upload/chat-image HTTP/1.1',
      'Host: localhost',
      `X-Request-Id: ${requestId}`,
      ...(as === undefined ? [] : [`Authorization: Bearer ${this.test.token(as)}`]),
      ...headers,
      '',
      '',
    ];
    // Each piece is a separate write, and so usually a separate packet.
    for (const piece of cut(Buffer.concat([Buffer.from(head.join('\r\n'), 'latin1'), body]), cuts)) {
      // A client with a wrong request may be cut off. Only earlier responses count.
      if (!client.open) break;
      await client.send(piece, LIMIT_MS);
    }
    return { client, requestId };
  }

  /** Keeps a connection for the next upload. */
  keep(client: Client): void {
    this.kept = client;
  }

  /** Expects a response with the id of its request, unless the request was not HTTP. */
  expectOwnAnswer(answer: Answer, requestId: string): void {
    expectContract(answer);
    const isOwn = answer.headers.get('x-request-id') === requestId;
    expect(isOwn || (answer.status === 400 && answer.headers.get('connection') === 'close')).toBe(true);
  }

  /** All files in the storage folder, including half-written files. */
  private async storedObjects(): Promise<string[]> {
    if (this.test.settings.storage.driver !== 'local')
      throw new Error('This suite runs on the local storage.');
    const { directory } = this.test.settings.storage;
    const entries = await readdir(directory, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(directory, join(entry.parentPath, entry.name)).split(sep).join('/'))
      .filter((name) => !name.startsWith('properties/'))
      .map((name) => name.replace(/^objects\//, ''));
  }
}

/** Small pictures of each format, with the same bytes in each run. */
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
