/** Why a picture is not prepared: it is no acceptable image, no process had time or room for it, or its sender has gone. */
export type PictureFailure = 'invalid' | 'overloaded' | 'sender-left';

/** The one error of this folder towards its callers. */
export class PictureError extends Error {
  override readonly name = 'PictureError';

  /** @param message of an invalid picture: a sentence for its sender, which says what to do */
  constructor(
    readonly failure: PictureFailure,
    message: string,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

/** @param reason a sentence for the sender */
export function invalidPicture(reason: string, cause?: unknown): PictureError {
  return new PictureError('invalid', reason, cause);
}

export function overloaded(reason: string, cause?: unknown): PictureError {
  return new PictureError('overloaded', reason, cause);
}
