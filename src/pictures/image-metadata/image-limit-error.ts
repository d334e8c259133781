/** Sentences for the client: the problem, and what to do. */
export const TOO_MANY_FRAMES = 'The animation has too many frames. Please send a shorter one.';
export const ANIMATION_TOO_LARGE = 'The animation is too large. Please send a smaller or shorter one.';
export const TOO_MANY_PARTS = 'The image is built of too many parts. Please save it anew and send that.';
export const TOO_COMPLEX = 'The image takes too long to read. Please save it as a plain JPEG and send that.';
export const NOT_SHOWN =
  'The image is coded in a way that phones do not show. Please save it as a plain JPEG and send that.';
export const FOR_APPLE_ONLY =
  'The image is a PNG that only apps of Apple show. Please save it as a plain JPEG and send that.';

/** A picture exceeds one of the IMAGE_LIMITS, or uses a slow feature that no real picture uses. */
export class ImageLimitError extends Error {
  override readonly name = 'ImageLimitError';

  /**
   * @param sentence for the client: one of the constants above
   * @param detail for the log
   */
  constructor(
    readonly sentence: string,
    detail: string,
  ) {
    super(detail);
  }
}
