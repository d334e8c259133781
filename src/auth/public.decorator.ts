import { type CustomDecorator, SetMetadata } from '@nestjs/common';

export const PUBLIC = 'public';

/**
 * Lets a route answer without a bearer token. Every other route needs one, also one that declares nothing.
 *
 * @param reason why nobody's data can leave through it
 */
export const Public = (reason: string): CustomDecorator => SetMetadata(PUBLIC, reason);
