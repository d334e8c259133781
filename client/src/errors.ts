import type { components } from './api-types.js';

/** A code of the service's error catalogue. */
export type ServiceErrorCode = components['schemas']['ErrorCode'];

/** A code of a failure that the service does not know of. */
export type ClientErrorCode =
  /** No answer of the service arrived: no network, a cut connection, or a proxy that answered in its place. */
  | 'NETWORK_ERROR'
  /** No answer arrived in time. */
  | 'TIMEOUT'
  /** A refusal (4xx) that is not in the service's words, as of a proxy or of a wrong `baseUrl`. */
  | 'UNREADABLE_ANSWER'
  /** A fresh URL did not show the picture either. */
  | 'IMAGE_NOT_SHOWN';

export type ErrorCode = ServiceErrorCode | ClientErrorCode;

/** Validation errors by field of the request: `{ field: [sentence, …] }`. */
export type FieldErrors = Readonly<Record<string, readonly string[]>>;

type ErrorDetails = {
  readonly code: ErrorCode;
  readonly message: string;
  readonly status?: number | undefined;
  readonly fields?: FieldErrors | undefined;
  readonly requestId?: string | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly cause?: unknown;
};

const TEMPORARY: readonly ErrorCode[] = ['NETWORK_ERROR', 'TIMEOUT', 'REQUEST_TIMEOUT', 'TOO_MANY_REQUESTS'];

/** The one error class of this package. `message` is a short sentence for people. */
export class ChatImagesError extends Error {
  /** Decide by this code. A newer service may send codes that this version does not list. */
  readonly code: ErrorCode;
  /** The HTTP status, where there was an answer to this request alone. */
  readonly status: number | undefined;
  readonly fields: FieldErrors | undefined;
  /** Names the request in the service's logs. */
  readonly requestId: string | undefined;
  /** The service's `Retry-After`, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor({ code, message, status, fields, requestId, retryAfterMs, cause }: ErrorDetails) {
    super(message, { cause });
    this.name = 'ChatImagesError';
    this.code = code;
    this.status = status;
    this.fields = fields;
    this.requestId = requestId;
    this.retryAfterMs = retryAfterMs;
  }

  /** Whether the same request may succeed later. */
  get isTemporary(): boolean {
    return TEMPORARY.includes(this.code) || (this.status !== undefined && this.status >= 500);
  }
}
