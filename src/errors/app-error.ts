/**
 * The error catalogue: every failure that a client can see, by its code. Messages are shown to people by old
 * clients, so they are short sentences that say what to do, without medical or internal detail.
 */
const CATALOGUE = {
  MALFORMED_REQUEST: { status: 400, message: 'The request could not be read. Please send it again.' },
  UNAUTHENTICATED: { status: 401, message: 'Please log in again.' },
  FORBIDDEN: { status: 403, message: 'You do not have permission to access this image.' },
  IMAGE_NOT_FOUND: { status: 404, message: 'Image not found.' },
  APPOINTMENT_NOT_FOUND: { status: 404, message: 'Appointment not found.' },
  NOT_FOUND: { status: 404, message: 'Nothing was found at this address.' },
  REQUEST_TIMEOUT: { status: 408, message: 'The request took too long to arrive. Please send it again.' },
  IDEMPOTENCY_KEY_REUSED: {
    status: 409,
    message: 'This upload was sent before with another image. Please send it again.',
  },
  FILE_TOO_LARGE: {
    status: 413,
    message: 'The image is too large. Please send one of at most 10 MB, without the film of a motion photo.',
  },
  UNSUPPORTED_MEDIA_TYPE: { status: 415, message: 'Please send the image as multipart/form-data.' },
  VALIDATION_FAILED: { status: 422, message: 'The request is not valid. Please check what was sent.' },
  INVALID_IMAGE: { status: 422, message: 'The file is not an acceptable image.' },
  TOO_MANY_REQUESTS: { status: 429, message: 'Too many requests. Please try again in a moment.' },
  HEADERS_TOO_LARGE: {
    status: 431,
    message: 'The headers of the request are too large. Please send smaller ones.',
  },
  STORAGE_UNAVAILABLE: { status: 503, message: 'Images are not available right now. Please try again soon.' },
  DATABASE_UNAVAILABLE: {
    status: 503,
    message: 'The service is not available right now. Please try again soon.',
  },
  OVERLOADED: { status: 503, message: 'The service is busy right now. Please try again soon.' },
  INTERNAL_ERROR: { status: 500, message: 'Something went wrong. Please try again.' },
} as const;

/** A code of the catalogue, stable for clients. */
export type ErrorCode = keyof typeof CATALOGUE;

/** Every code of the catalogue, for the documentation. */
export const ERROR_CODES = Object.keys(CATALOGUE) as readonly ErrorCode[];

/** What was wrong, per field of the request: `{ field: [sentence, …] }`. */
export type FieldErrors = Readonly<Record<string, readonly string[]>>;

/** After how many seconds a client should try again when a backend was down. */
const RETRY_AFTER_SECONDS = 5;

type AppErrorOptions = {
  /** Replaces the catalogue's sentence, e.g. with the reason why an image was refused. */
  readonly message?: string;
  readonly fields?: FieldErrors;
  /** Seconds for `Retry-After`; 503 answers have one without it. */
  readonly retryAfterSeconds?: number;
  /** Logged, never sent. */
  readonly cause?: unknown;
  /** The failure is in the log already. */
  readonly logged?: boolean;
};

/** The one error class that is thrown on purpose towards a client. Everything else is an INTERNAL_ERROR. */
export class AppError extends Error {
  readonly status: number;
  readonly fields: FieldErrors | undefined;
  readonly retryAfterSeconds: number | undefined;
  readonly logged: boolean;

  constructor(
    readonly code: ErrorCode,
    options: AppErrorOptions = {},
  ) {
    const entry = CATALOGUE[code];
    super(options.message ?? entry.message, { cause: options.cause });
    this.name = 'AppError';
    this.status = entry.status;
    this.fields = options.fields;
    this.logged = options.logged ?? false;
    this.retryAfterSeconds =
      options.retryAfterSeconds ?? (entry.status === 503 ? RETRY_AFTER_SECONDS : undefined);
  }
}

/** A VALIDATION_FAILED error that names the fields. */
export function validationFailed(fields: FieldErrors): AppError {
  const [first] = Object.values(fields).flat();
  return new AppError('VALIDATION_FAILED', { fields, ...(first === undefined ? {} : { message: first }) });
}

/** The error of an upload whose client has gone, or was answered already. No client sees it, and it is no failure. */
export function uploadGivenUp(): AppError {
  return new AppError('VALIDATION_FAILED', { message: 'The upload was given up.' });
}
