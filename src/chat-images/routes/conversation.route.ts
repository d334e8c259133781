import { Inject, Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../../access/access.guard.js';
import { grantedConversation, type GrantedConversation, ImageAccess } from '../../access/image-access.js';
import type { AuthenticatedUser } from '../../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../../config/settings.js';
import { conversationNotFound } from '../../conversations/conversation.js';
import { AppError } from '../../errors/app-error.js';
import { conversationInPath } from './image-name.js';

/** The conversation in the path: the parameter `appointmentId` or `textSessionId` is its number. */
@Injectable()
export class ConversationRoute implements RouteAccess<GrantedConversation> {
  constructor(
    private readonly access: ImageAccess,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  async grant({ params }: Request, user: AuthenticatedUser): Promise<GrantedConversation> {
    const { kind, id } = conversationInPath(params);
    if (kind === 'text session' && !this.settings.textSessions) throw new AppError('NOT_FOUND');
    if (id === undefined) throw conversationNotFound({ kind });
    const named = { kind, id };
    return grantedConversation(await this.access.decideConversation(user, named), named, 'see the images of');
  }
}
