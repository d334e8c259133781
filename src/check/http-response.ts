import { systemCode } from '../errors/system-code.js';

const TIMEOUT_MS = 10_000;

/** Maximum size of a response body. The rest of a longer body is not read. */
const MAX_BYTES = 64 * 1024;

export type HttpResponse = {
  readonly status: number;
  readonly headers: Headers;
  /** The body, at most about {@link MAX_BYTES}. */
  readonly bytes: Buffer;
};

/** No response. `reason` is the system's error code, or `too slow` after the timeout. */
export class NoResponseError extends Error {
  override readonly name = 'NoResponseError';

  constructor(readonly reason: string) {
    super(`no response (${reason})`);
  }
}

/**
 * Sends a GET without credentials, like a phone or a browser. Does not follow redirects.
 *
 * @throws NoResponseError
 */
export async function get(
  url: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<HttpResponse> {
  try {
    const response = await fetch(url, {
      headers,
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    return { status: response.status, headers: response.headers, bytes: await readBeginning(response) };
  } catch (error) {
    throw new NoResponseError(systemCode(error) ?? 'too slow');
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
