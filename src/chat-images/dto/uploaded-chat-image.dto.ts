import { ApiProperty } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { IsDefined } from 'class-validator';
import { parseId } from '../../database/parse-id.js';
import type { ChatImage } from '../chat-image.entity.js';
import type { SignedUrl } from '../storage/storage-provider.js';
import { ChatImageDto } from './chat-image.dto.js';

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

/** An uploaded picture, with what app versions in the field read of it. */
export class UploadedChatImageDto extends ChatImageDto {
  @ApiProperty({
    description: 'A first URL that reads the picture, for an hour.',
    example:
      'https://docavailable-storage.fra1.digitaloceanspaces.com/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=…&X-Amz-Expires=3600&X-Amz-Signature=…',
  })
  readonly signed_url: string;

  @ApiProperty({
    description: 'The same as `media_url`.',
    example: 'https://api.example.com/storage/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  })
  readonly url: string;

  constructor(image: ChatImage, signedUrl: SignedUrl, appUrl: string) {
    super(image, appUrl);
    this.signed_url = signedUrl.url;
    this.url = this.media_url;
  }
}

export class UploadedChatImageResponseDto {
  @ApiProperty({ example: true })
  readonly success = true;

  @ApiProperty({ example: 'Chat image uploaded successfully' })
  readonly message = 'Chat image uploaded successfully';

  @ApiProperty()
  readonly data: UploadedChatImageDto;

  constructor(data: UploadedChatImageDto) {
    this.data = data;
  }
}
