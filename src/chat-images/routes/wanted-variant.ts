import type { Request } from 'express';
import { validationFailed } from '../../errors/app-error.js';
import { isVariant, type Variant, VARIANTS } from '../entities/chat-image.entity.js';

/** How Swagger UI describes the parameter. */
export const VARIANT_QUERY = {
  name: 'variant',
  required: false,
  description:
    'What the URL reads. A missing thumbnail is made; where that takes too long, it is the whole picture.',
  schema: { type: 'string', enum: [...VARIANTS], default: 'original' },
} as const;

const SENTENCE = 'The variant must be thumbnail or original.';

/**
 * Reads `?variant=…`. Without it, the whole picture is wanted.
 *
 * @throws AppError VALIDATION_FAILED
 */
export function wantedVariant({ query }: Request): Variant {
  const { variant = 'original' } = query;
  if (!isVariant(variant)) throw validationFailed({ variant: [SENTENCE] });
  return variant;
}
