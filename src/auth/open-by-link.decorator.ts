import { type CustomDecorator, SetMetadata } from '@nestjs/common';

export const OPEN_BY_LINK = 'open-by-link';

/**
 * Lets requests without a token through to the route's own guard. Applies only in migration phases that open stable
 * addresses without a token. A token in the request is always verified.
 */
export const OpenByLink = (): CustomDecorator => SetMetadata(OPEN_BY_LINK, true);
