import { type CustomDecorator, SetMetadata } from '@nestjs/common';

export const PUBLIC = 'public';

/**
 * Marks a route as public: no bearer token needed. Routes without this decorator need a bearer token.
 *
 * @param reason why the route can't leak a user's data
 */
export const Public = (reason: string): CustomDecorator => SetMetadata(PUBLIC, reason);
