import { ApiProperty } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { IsDefined } from 'class-validator';
import { parseId } from '../database/parse-id.js';

/** The fields of an upload's form. */
export class UploadFieldsDto {
  @Transform(({ value }) => (typeof value === 'string' ? parseId(value.trim()) : undefined))
  @IsDefined({ message: 'The appointment_id must be the number of an appointment.' })
  @ApiProperty({
    type: 'integer',
    minimum: 1,
    description: 'The appointment in whose chat the picture is sent.',
    example: 145,
  })
  readonly appointment_id!: number;
}

/** The form of an upload, for the documentation. The file is read, piece by piece, by `upload-form.ts`. */
export class UploadChatImageDto extends UploadFieldsDto {
  @ApiProperty({
    type: 'string',
    format: 'binary',
    description: 'A JPEG, PNG, GIF or WebP picture of at most 10 MiB.',
  })
  readonly file!: unknown;
}
