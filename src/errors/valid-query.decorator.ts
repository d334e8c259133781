import { Query, StandardSchemaValidationPipe } from '@nestjs/common';
import type { z } from 'zod';
import { validationFailedBy } from './app-error.js';

const PIPE = new StandardSchemaValidationPipe({ exceptionFactory: validationFailedBy });

/**
 * The query of a request as a schema makes it, or a VALIDATION_FAILED. Schema and check are one decorator, so that neither
 * is there without the other; a pipe for all routes would cost those that have nothing to check.
 */
export const ValidQuery = (schema: z.ZodType): ParameterDecorator => Query({ schema, pipes: [PIPE] });
