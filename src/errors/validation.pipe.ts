import { ValidationPipe } from '@nestjs/common';
import { validate, type ValidationError, type ValidatorOptions } from 'class-validator';
import { type AppError, validationFailed } from './app-error.js';

const OPTIONS: ValidatorOptions = {
  stopAtFirstError: true,
  forbidUnknownValues: true,
  validationError: { target: false, value: false },
};

/**
 * Makes of a query a DTO, whose decorators say what is valid, or rejects with VALIDATION_FAILED. It is named where it is
 * needed: for all routes it would cost those that have nothing to check.
 */
export const VALIDATION_PIPE = new ValidationPipe({
  ...OPTIONS,
  transform: true,
  exceptionFactory: toValidationFailed,
});

/**
 * Checks a DTO that was filled by hand, as it is for JSON: class-transformer follows whatever a client nests, until the stack
 * is full.
 *
 * @throws AppError VALIDATION_FAILED
 */
export async function validated<Dto extends object>(dto: Dto): Promise<Dto> {
  const errors = await validate(dto, OPTIONS);
  if (errors.length > 0) throw toValidationFailed(errors);
  return dto;
}

function toValidationFailed(errors: readonly ValidationError[]): AppError {
  return validationFailed(
    Object.fromEntries(
      errors.map(({ property, constraints = {} }) => [property, Object.values(constraints)]),
    ),
  );
}
