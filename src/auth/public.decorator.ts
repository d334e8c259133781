import { type CustomDecorator, type ExecutionContext, SetMetadata } from '@nestjs/common';
import type { Reflector } from '@nestjs/core';

export const PUBLIC = 'public';

/**
 * Marks a route as public: no bearer token needed. Routes without this decorator need a bearer token.
 *
 * @param reason why the route can't leak a user's data
 */
export const Public = (reason: string): CustomDecorator => SetMetadata(PUBLIC, reason);

/** Whether the handler, or its controller, is marked with {@link Public}. */
export function isPublic(reflector: Reflector, context: ExecutionContext): boolean {
  return reflector.getAllAndOverride(PUBLIC, [context.getHandler(), context.getClass()]) !== undefined;
}
