import { systemCode } from '../errors/system-code.js';

const TIMEOUT_MS = 10_000;

/** More than any answer that is looked at; of a longer one the rest is left. */
const MAX_BYTES = 64 * 1024;

export type HttpAnswer = {
  readonly status: number;
  readonly headers: Headers;
  /** The body's beginning. */
  readonly bytes: Buffer;
};

/** No answer came: the name of what the system said, or nothing when the time was over. */
export class NoAnswerError extends Error {
  override readonly name = 'NoAnswerError';

  constructor(readonly reason: string) {
    super(`no answer (${reason})`);
  }
}

/**
 * A GET as a phone or a browser sends it, without credentials of its own. Redirects are not followed.
 *
 * @throws NoAnswerError
 */
export async function get(url: string, headers: Readonly<Record<string, string>> = {}): Promise<HttpAnswer> {
  try {
    const response = await fetch(url, {
      headers,
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    return { status: response.status, headers: response.headers, bytes: await readBeginning(response) };
  } catch (error) {
    throw new NoAnswerError(systemCode(error) ?? 'too slow');
  }
}

async function readBeginning({ body }: Response): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of (body ?? []) as AsyncIterable<Uint8Array>) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > MAX_BYTES) break;
  }
  return Buffer.concat(chunks);
}
