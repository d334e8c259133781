import { Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../../access/access.guard.js';
import { grantedOf, ImageAccess, imageIdOf, type RecordedAccess } from '../../access/image-access.js';
import type { AuthenticatedUser } from '../../auth/token-verifier.js';
import { imageReference } from './image-name.js';

/** The image that the parameter `id` names. The response holds its URL, so there is an audit row. */
@Injectable()
export class ImageUrlRoute implements RouteAccess<RecordedAccess> {
  constructor(private readonly access: ImageAccess) {}

  async grant(request: Request, user: AuthenticatedUser): Promise<RecordedAccess> {
    const decision = await this.access.record(user, imageReference(request.params.id));
    request.imageId = imageIdOf(decision);
    return grantedOf(decision);
  }
}
