import { type CustomDecorator, SetMetadata } from '@nestjs/common';

export const OPEN_BY_LINK = 'open-by-link';

/**
 * Lets a request without any token through to the route's own guard, in the phases of the migration that open stable
 * addresses without one. A token that is sent is always verified.
 */
export const OpenByLink = (): CustomDecorator => SetMetadata(OPEN_BY_LINK, true);
