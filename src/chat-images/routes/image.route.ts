import { Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../../access/access.guard.js';
import { type GrantedImage, grantedOf, ImageAccess, imageIdOf } from '../../access/image-access.js';
import type { AuthenticatedUser } from '../../auth/token-verifier.js';
import { imageReference } from './image-name.js';

/** The image that the parameter `id` names. The response holds no URL. */
@Injectable()
export class ImageRoute implements RouteAccess<GrantedImage> {
  constructor(private readonly access: ImageAccess) {}

  async grant(request: Request, user: AuthenticatedUser): Promise<GrantedImage> {
    const decision = await this.access.decide(user, imageReference(request.params.id));
    request.imageId = imageIdOf(decision);
    return grantedOf(decision);
  }
}
