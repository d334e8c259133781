import { Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../../access/access.guard.js';
import { grantedOf, imageIdOf, type RecordedAccess } from '../../access/image-access.js';
import type { AuthenticatedUser } from '../../auth/token-verifier.js';
import { ImageUrls } from '../image-urls.js';
import { imageReference } from './image-name.js';
import { wantedVariant } from './wanted-variant.js';

/** The image that the parameter `id` names. The response holds its URL, so there is an audit row. */
@Injectable()
export class ImageUrlRoute implements RouteAccess<RecordedAccess> {
  constructor(private readonly urls: ImageUrls) {}

  async grant(request: Request, user: AuthenticatedUser): Promise<RecordedAccess> {
    const image = imageReference(request.params.id);
    const decision = await this.urls.record(user, { image, variant: wantedVariant(request) });
    request.imageId = imageIdOf(decision);
    return grantedOf(decision);
  }
}
