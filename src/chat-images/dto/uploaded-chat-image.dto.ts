import { ApiProperty } from '@nestjs/swagger';
import type { ChatImage } from '../chat-image.entity.js';
import type { SignedUrl } from '../storage/storage-provider.js';
import { toTimestamp } from '../../timestamp.js';

/** The form of an upload, for the documentation. Reading and checking it is the work of `upload-form.ts`. */
export class UploadChatImageDto {
  @ApiProperty({
    type: 'string',
    format: 'binary',
    description: 'A JPEG, PNG, GIF or WebP picture of at most 10 MiB.',
  })
  readonly file!: unknown;

  @ApiProperty({
    type: 'integer',
    minimum: 1,
    description: 'The appointment in whose chat the picture is sent.',
    example: 145,
  })
  readonly appointment_id!: number;
}

/** An uploaded picture; the second half of the fields is what app versions in the field read. */
export class UploadedChatImageDto {
  @ApiProperty({ example: 123 })
  readonly id: number;

  @ApiProperty({ description: 'The same as text.', example: '123' })
  readonly image_id: string;

  @ApiProperty({
    description: 'The path in the private storage.',
    example: 'chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  })
  readonly file_path: string;

  @ApiProperty({ example: 145 })
  readonly appointment_id: number;

  @ApiProperty({ description: 'The user who sent the picture.', example: 2 })
  readonly uploaded_by: number;

  @ApiProperty({ example: '2025-11-05T21:50:01.000000Z' })
  readonly created_at: string;

  @ApiProperty({
    description: 'A first URL that reads the picture, for an hour.',
    example:
      'https://docavailable-storage.fra1.digitaloceanspaces.com/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=…&X-Amz-Expires=3600&X-Amz-Signature=…',
  })
  readonly signed_url: string;

  @ApiProperty({
    description: 'A stable address of the picture, for chat messages. It needs a bearer token.',
    example: 'https://api.example.com/storage/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  })
  readonly media_url: string;

  @ApiProperty({
    description: 'The same as `media_url`.',
    example: 'https://api.example.com/storage/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  })
  readonly url: string;

  @ApiProperty({ description: 'The file name that the client sent.', example: 'rash.jpg' })
  readonly name: string;

  @ApiProperty({ description: 'Bytes stored.', example: 204_800 })
  readonly size: number;

  @ApiProperty({ example: 'image' })
  readonly type = 'image';

  @ApiProperty({ description: 'Of the detected type, without dot.', example: 'jpg' })
  readonly extension: string;

  @ApiProperty({ description: 'The type found in the bytes.', example: 'image/jpeg' })
  readonly mime_type: string;

  @ApiProperty({ description: 'Pixels, as a viewer shows the picture.', example: 1200 })
  readonly width: number;

  @ApiProperty({ description: 'Pixels, as a viewer shows the picture.', example: 1600 })
  readonly height: number;

  constructor(image: ChatImage, signedUrl: SignedUrl, appUrl: string) {
    this.id = image.id;
    this.image_id = String(image.id);
    this.file_path = image.filePath;
    this.appointment_id = image.appointmentId;
    this.uploaded_by = image.uploadedBy;
    this.created_at = toTimestamp(image.createdAt);
    this.signed_url = signedUrl.url;
    this.media_url = `${appUrl}/storage/${image.filePath}`;
    this.url = this.media_url;
    this.name = image.originalName;
    this.size = image.size;
    this.extension = image.filename.slice(image.filename.lastIndexOf('.') + 1);
    this.mime_type = image.mimeType;
    this.width = image.width;
    this.height = image.height;
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
