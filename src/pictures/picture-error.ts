/** Why a picture is not prepared: the image is not acceptable, no process or memory is free, or the client disconnected. */
export type PictureFailure = 'invalid' | 'overloaded' | 'sender-left';

/** The only error that this folder throws to its callers. */
export class PictureError extends Error {
  override readonly name = 'PictureError';

  /** @param message for an invalid picture: a sentence for the client that says what to do */
  constructor(
    readonly failure: PictureFailure,
    message: string,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

/** @param reason a sentence for the client */
export function invalidPicture(reason: string, cause?: unknown): PictureError {
  return new PictureError('invalid', reason, cause);
}

export function overloaded(reason: string, cause?: unknown): PictureError {
  return new PictureError('overloaded', reason, cause);
}
