import { ApiProperty } from '@nestjs/swagger';
import { IsDefined } from 'class-validator';
import { type NamedConversation, parseConversation } from '../conversations/conversation.js';

/** The fields of an upload's form. */
export class UploadFieldsDto {
  @IsDefined({ message: 'The appointment_id must be the number of an appointment.' })
  @ApiProperty({
    type: 'integer',
    minimum: 1,
    description:
      'The appointment in whose chat the picture is sent. With text sessions: the text session of this number where you ' +
      'take part in it, else the appointment; `text_session_147` and `text_session:147` name a text session outright.',
    example: 145,
  })
  readonly appointment_id!: NamedConversation;

  /**
   * @param appointmentId as the form has it
   * @param textSessions TEXT_SESSIONS
   */
  static of(appointmentId: string, textSessions: boolean): UploadFieldsDto {
    return Object.assign(new UploadFieldsDto(), {
      appointment_id: parseConversation(appointmentId.trim(), textSessions),
    });
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
