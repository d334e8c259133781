import { Inject, Injectable } from '@nestjs/common';
import {
  type Decision,
  eachDecision,
  ImageAccess,
  type ImageReference,
  type RecordedAccess,
} from '../access/image-access.js';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import type { Variant } from './entities/chat-image.entity.js';
import { ThumbnailMaker } from './thumbnail-maker.js';

/** How long a request waits for all its missing thumbnails together. */
const THUMBNAIL_WAIT_MS = 3000;

/** An image of which a user wants the URL, and what the URL should read. */
export type WantedUrl = { readonly image: ImageReference | undefined; readonly variant: Variant };

/**
 * Decides on URLs of images and of their thumbnails. A missing thumbnail is made first. Where it can't be had in time, the
 * URL reads the whole picture: a client always gets a URL that works.
 */
@Injectable()
export class ImageUrls {
  constructor(
    private readonly access: ImageAccess,
    private readonly thumbnails: ThumbnailMaker,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /** Decides whether a user may have a URL. When this resolves, the audit row of a grant is committed. */
  record(
    user: AuthenticatedUser,
    { image, variant }: WantedUrl,
    deadline = performance.now() + THUMBNAIL_WAIT_MS,
  ): Promise<Decision<RecordedAccess>> {
    return variant === 'thumbnail' && this.settings.thumbnails
      ? this.recordThumbnail(user, image, deadline)
      : this.access.record(user, image);
  }

  /** Decides on several URLs as {@link eachDecision} says, in their order. */
  recordEach(
    user: AuthenticatedUser,
    wanted: readonly WantedUrl[],
  ): Promise<readonly Decision<RecordedAccess>[]> {
    const deadline = performance.now() + THUMBNAIL_WAIT_MS;
    return eachDecision(wanted.map((url) => this.record(user, url, deadline)));
  }

  private async recordThumbnail(
    user: AuthenticatedUser,
    image: ImageReference | undefined,
    deadline: number,
  ): Promise<Decision<RecordedAccess>> {
    const decision = await this.access.recordThumbnail(user, image);
    if (!('waitsFor' in decision)) return decision;
    await this.thumbnails.make(decision.waitsFor.id, user.id, deadline);
    return this.access.record(user, image, 'thumbnail');
  }
}
