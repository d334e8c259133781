import { Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../../access/access.guard.js';
import { type Decision, grantedOf, imageIdOf, type RecordedAccess } from '../../access/image-access.js';
import type { AuthenticatedUser } from '../../auth/token-verifier.js';
import { RateLimits } from '../../rate-limits/rate-limits.js';
import type { ImageName } from '../dto/signed-urls.dto.js';
import { readWantedImages } from '../image-ids-body.js';
import { ImageUrls } from '../image-urls.js';
import { imageReference } from './image-name.js';

/** An image as the client named it, and the decision on it. */
export type DecidedImage = { readonly name: ImageName; readonly decision: Decision<RecordedAccess> };

/** The images that the body names, each decided on its own. The response holds their URLs. */
@Injectable()
export class ImageUrlsRoute implements RouteAccess<readonly DecidedImage[]> {
  constructor(
    private readonly urls: ImageUrls,
    private readonly limits: RateLimits,
  ) {}

  async grant(request: Request, user: AuthenticatedUser): Promise<readonly DecidedImage[]> {
    const wanted = await readWantedImages(request);
    // The request itself has been counted.
    await this.limits.consume('signed-urls', user.id, wanted.length - 1);
    const decisions = await this.urls.recordEach(
      user,
      wanted.map(({ name, variant }) => ({ image: imageReference(String(name)), variant })),
    );
    request.imageIds = decisions.map(imageIdOf).filter((id) => id !== undefined);
    return decisions.map((decision, index) => {
      // A user who is not there any more gets no list of refusals.
      if ('refusal' in decision && decision.refusal === 'UNAUTHENTICATED') grantedOf(decision);
      return { name: wanted[index]?.name ?? '', decision };
    });
  }
}
