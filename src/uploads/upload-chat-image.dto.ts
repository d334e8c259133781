import { ApiProperty } from '@nestjs/swagger';
import { IsDefined } from 'class-validator';
import { parseId } from '../database/parse-id.js';

/** The fields of an upload's form. */
export class UploadFieldsDto {
  @IsDefined({ message: 'The appointment_id must be the number of an appointment.' })
  @ApiProperty({
    type: 'integer',
    minimum: 1,
    description: 'The appointment in whose chat the picture is sent.',
    example: 145,
  })
  readonly appointment_id!: number;

  /** @param appointmentId as the form has it */
  static of(appointmentId: string): UploadFieldsDto {
    return Object.assign(new UploadFieldsDto(), { appointment_id: parseId(appointmentId.trim()) });
  }
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
