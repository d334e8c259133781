import { applyDecorators } from '@nestjs/common';
import { ApiExtraModels, ApiResponse, getSchemaPath } from '@nestjs/swagger';
import { AppError, type ErrorCode } from './app-error.js';
import { ErrorBodyDto } from './error-body.dto.js';

/** Documents the failures of a route, one example each, grouped by status as OpenAPI wants them. */
export function ApiErrors(...codes: readonly ErrorCode[]): MethodDecorator & ClassDecorator {
  const byStatus = new Map<number, AppError[]>();
  for (const error of codes.map((code) => new AppError(code))) {
    byStatus.set(error.status, [...(byStatus.get(error.status) ?? []), error]);
  }
  return applyDecorators(
    ApiExtraModels(ErrorBodyDto),
    ...[...byStatus].map(([status, errors]) =>
      ApiResponse({
        status,
        description: errors.map(({ code }) => `\`${code}\``).join(' or '),
        content: {
          'application/json': {
            schema: { $ref: getSchemaPath(ErrorBodyDto) },
            examples: Object.fromEntries(
              errors.map((error) => [
                error.code,
                { value: new ErrorBodyDto(error, '0b8f7f1e-6f0c-4c38-9d5a-6c1f0f6f3f52') },
              ]),
            ),
          },
        },
      }),
    ),
  );
}
