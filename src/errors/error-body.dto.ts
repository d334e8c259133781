import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { type AppError, ERROR_CODES, type ErrorCode, type FieldErrors } from './app-error.js';

/** The body of every failure. */
export class ErrorBodyDto {
  @ApiProperty({ example: false })
  readonly success = false;

  @ApiProperty({ description: 'A sentence for people.' })
  readonly message: string;

  @ApiProperty({ description: 'A stable code for programs.', enum: ERROR_CODES, enumName: 'ErrorCode' })
  readonly error_code: ErrorCode;

  @ApiPropertyOptional({
    description: 'What was wrong, per field.',
    type: 'object',
    additionalProperties: { type: 'array', items: { type: 'string' } },
  })
  readonly errors?: FieldErrors;

  @ApiProperty({ description: 'Names the request in the logs; also in `X-Request-Id`.' })
  readonly request_id: string;

  constructor(error: AppError, requestId: string) {
    this.message = error.message;
    this.error_code = error.code;
    if (error.fields) this.errors = error.fields;
    this.request_id = requestId;
  }
}
