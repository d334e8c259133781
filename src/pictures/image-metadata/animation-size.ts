import { ANIMATION_TOO_LARGE, ImageLimitError, TOO_MANY_FRAMES } from './image-limit-error.js';
import { IMAGE_LIMITS } from './image-limits.js';

/** In pixels on the canvas. */
export type Area = {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
};

/** Sums up the cost of an animation's frames while the file is parsed. */
export class AnimationSize {
  readonly #canvas: Pick<Area, 'width' | 'height'>;
  #frames = 0;
  #pixels = 0;
  #right = 0;
  #bottom = 0;

  /** @param canvas in pixels */
  constructor(canvas: Pick<Area, 'width' | 'height'>) {
    this.#canvas = canvas;
  }

  /** @throws ImageLimitError when the frames so far exceed a limit of animations */
  addFrame({ left, top, width, height }: Area): void {
    this.#frames += 1;
    this.#pixels += Math.max(width * height, this.#canvas.width * this.#canvas.height);
    this.#right = Math.max(this.#right, left + width);
    this.#bottom = Math.max(this.#bottom, top + height);
    const { frames, animationPixels } = IMAGE_LIMITS;
    if (this.#frames > frames) {
      throw new ImageLimitError(TOO_MANY_FRAMES, `The animation has more than ${frames} frames.`);
    }
    // A single frame is not an animation: other limits apply.
    if (this.#frames === 1) return;
    if (this.#pixels > animationPixels) {
      throw new ImageLimitError(
        ANIMATION_TOO_LARGE,
        `The animation has more than ${animationPixels} pixels.`,
      );
    }
    // Some GIF decoders use the area covered by all frames as the canvas.
    if (this.#isNarrow(this.#canvas) || this.#isNarrow({ width: this.#right, height: this.#bottom })) {
      throw new ImageLimitError(ANIMATION_TOO_LARGE, 'The animation has too many lines for its width.');
    }
  }

  #isNarrow({ width, height }: Pick<Area, 'width' | 'height'>): boolean {
    return this.#frames * height > IMAGE_LIMITS.animationLinesPerColumn * width;
  }
}
