import { ChatImagesError, type ErrorCode, type FieldErrors } from './errors.js';
import type { HttpRequest, HttpResponse, Send } from './send.js';
import { pause, pauseMs, throwIfAborted, type Timing, untilAborted } from './waiting.js';

/**
 * Gives the user's bearer token.
 *
 * @param refused the token that the service has just refused, when the call is for another one
 */
export type TokenSource = (refused?: string) => string | Promise<string>;

type ConnectionOptions = {
  readonly baseUrl: string;
  readonly token: TokenSource;
  readonly headers: Readonly<Record<string, string>>;
  readonly now: () => number;
  readonly send: Send;
  readonly timing: Timing;
};

type ApiRequest = Pick<HttpRequest, 'method' | 'onProgress'> & {
  /** Begins with `/api/`. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Made anew for each try. */
  readonly body?: () => string | FormData;
  readonly timeoutMs: number;
  readonly retryMs: number;
  readonly signal?: AbortSignal | undefined;
};

/** The `data` of an answer, and what came with it. */
export type Answer<Data> = {
  readonly data: Data;
  readonly header: HttpResponse['header'];
  /** When its request left, by the client's clock. */
  readonly sentAt: number;
};

/** The way to the service: bearer token, time limits, retries, and typed errors. */
export class Connection {
  constructor(private readonly options: ConnectionOptions) {}

  /**
   * Sends a request until it is answered, refused, or out of time.
   *
   * @throws ChatImagesError, the signal's reason, or what `token` has thrown
   */
  request<Data>(request: ApiRequest): Promise<Answer<Data>> {
    return untilAborted(this.retry<Data>(request), request.signal);
  }

  private async retry<Data>(request: ApiRequest): Promise<Answer<Data>> {
    const { retryMs, signal } = request;
    const deadline = performance.now() + retryMs;
    for (let failures = 1; ; failures += 1) {
      throwIfAborted(signal);
      try {
        return await this.attempt<Data>(request);
      } catch (error) {
        if (!(error instanceof ChatImagesError) || !error.isTemporary) throw error;
        const ms = pauseMs(failures, error.retryAfterMs, this.options.timing);
        if (performance.now() + ms >= deadline) throw error;
        await pause(ms, { signals: [signal], untilOnline: error.retryAfterMs === undefined });
      }
    }
  }

  /** One try. A refused token is replaced once. */
  private async attempt<Data>(request: ApiRequest): Promise<Answer<Data>> {
    const token = await this.options.token();
    try {
      return await this.exchange<Data>(request, token);
    } catch (error) {
      if (!(error instanceof ChatImagesError) || error.code !== 'UNAUTHENTICATED') throw error;
    }
    return this.exchange<Data>(request, await this.options.token(token));
  }

  private async exchange<Data>(request: ApiRequest, token: string): Promise<Answer<Data>> {
    const { baseUrl, headers, now } = this.options;
    const { method, path, body, onProgress, signal, timeoutMs } = request;
    throwIfAborted(signal);
    const sentAt = now();
    const response = await this.send(
      {
        method,
        url: `${baseUrl}${path}`,
        headers: { ...headers, ...request.headers, Authorization: `Bearer ${token}` },
        ...(body && { body: body() }),
        ...(onProgress && { onProgress }),
      },
      timeoutMs,
      signal,
    );
    return { data: dataOf(response) as Data, header: response.header, sentAt };
  }

  private async send(
    request: Omit<HttpRequest, 'signal'>,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<HttpResponse> {
    const controller = new AbortController();
    const abort = (): void => controller.abort();
    const timer = setTimeout(abort, timeoutMs);
    signal?.addEventListener('abort', abort);
    try {
      return await this.options.send({ ...request, signal: controller.signal });
    } catch (cause) {
      throwIfAborted(signal);
      throw controller.signal.aborted
        ? new ChatImagesError({ code: 'TIMEOUT', message: 'The answer took too long.', cause })
        : new ChatImagesError({ code: 'NETWORK_ERROR', message: 'There is no connection.', cause });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
}

type Body = {
  readonly success?: unknown;
  readonly data?: unknown;
  readonly error_code?: unknown;
  readonly message?: unknown;
  readonly errors?: unknown;
};

function dataOf(response: HttpResponse): unknown {
  const body = parse(response.body);
  if (response.status < 300 && body?.success === true) return body.data;
  throw failure(response, body);
}

function parse(text: string): Body | undefined {
  try {
    return (JSON.parse(text) ?? undefined) as Body | undefined;
  } catch {
    return undefined;
  }
}

function failure({ status, header }: HttpResponse, body: Body | undefined): ChatImagesError {
  const seconds = Number(header('Retry-After') ?? NaN);
  const details = {
    status,
    requestId: header('X-Request-Id') ?? undefined,
    retryAfterMs: seconds >= 0 ? seconds * 1000 : undefined,
  };
  if (typeof body?.error_code === 'string') {
    return new ChatImagesError({
      ...details,
      code: body.error_code as ErrorCode,
      message: String(body.message),
      fields: body.errors as FieldErrors | undefined,
    });
  }
  // The response is not the service's: it comes from a proxy without a service, or from the log-in page of a public network.
  const isRefusal = status >= 400 && status < 500 && status !== 408 && status !== 429;
  return new ChatImagesError({
    ...details,
    code: isRefusal ? 'UNREADABLE_ANSWER' : 'NETWORK_ERROR',
    message: 'The answer could not be read.',
  });
}
