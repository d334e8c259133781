import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { Request } from 'express';
import type { AuthenticatedUser } from './token-verifier.js';

/** The user of the request's bearer token. */
export const CurrentUser = createParamDecorator(
  (_: unknown, context: ExecutionContext): AuthenticatedUser => {
    const { user } = context.switchToHttp().getRequest<Request>();
    if (!user) throw new Error('CurrentUser is used on a route without authentication.');
    return user;
  },
);
