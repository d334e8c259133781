/** At most this many frames: each costs time and memory in whatever reads the picture, however small it is. */
export const MAX_FRAMES = 1000;

/** An animation has more frames than {@link MAX_FRAMES}. */
export class TooManyFramesError extends Error {
  override readonly name = 'TooManyFramesError';
}
