import { type Type, ValidationPipe } from '@nestjs/common';
import type { ValidationError } from 'class-validator';
import { type AppError, validationFailed } from './app-error.js';

/**
 * Makes of what a client sent a DTO, whose decorators say what is valid, or rejects with VALIDATION_FAILED. It is named where
 * it is needed: for all routes it would cost those that have nothing to check.
 */
const PIPE = new ValidationPipe({
  transform: true,
  stopAtFirstError: true,
  forbidUnknownValues: true,
  validationError: { target: false, value: false },
  exceptionFactory: toValidationFailed,
});

/** For a body that is read before pipes run. */
export function validated<Dto extends object>(dto: Type<Dto>, value: unknown): Promise<Dto> {
  return PIPE.transform(value, { type: 'body', metatype: dto }) as Promise<Dto>;
}

export { PIPE as VALIDATION_PIPE };

function toValidationFailed(errors: readonly ValidationError[]): AppError {
  return validationFailed(
    Object.fromEntries(
      errors.map(({ property, constraints = {} }) => [property, Object.values(constraints)]),
    ),
  );
}
