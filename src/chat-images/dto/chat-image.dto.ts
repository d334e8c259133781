import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { thumbnailOf } from '../../access/image-access.js';
import { type ChatImage, conversationOf } from '../entities/chat-image.entity.js';
import { toTimestamp } from '../../timestamp.js';
import { THUMB_HASH_PROPERTY, THUMBNAIL_PROPERTY, thumbnailDto, type ThumbnailDto } from './thumbnail.dto.js';

/** What is known of a picture. */
export class ChatImageDto {
  @ApiProperty({ example: 123 })
  readonly id: number;

  @ApiProperty({ description: 'The same as text.', example: '123' })
  readonly image_id: string;

  @ApiProperty({
    description: 'The path in the private storage.',
    example: 'chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  })
  readonly file_path: string;

  @ApiProperty({ description: 'The number of the appointment, or of the text session.', example: 145 })
  readonly appointment_id: number;

  @ApiPropertyOptional({ description: 'For a picture of a text session only: its number.', example: 147 })
  readonly text_session_id?: number;

  @ApiProperty({ description: 'The user who sent the picture.', example: 2 })
  readonly uploaded_by: number;

  @ApiProperty({ example: '2025-11-05T21:50:01.000000Z' })
  readonly created_at: string;

  @ApiProperty({
    description: 'A stable address of the picture, for chat messages. It needs a bearer token.',
    example: 'https://api.example.com/storage/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  })
  readonly media_url: string;

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

  @ApiProperty(THUMB_HASH_PROPERTY)
  readonly thumb_hash: string | null;

  @ApiProperty(THUMBNAIL_PROPERTY)
  readonly thumbnail: ThumbnailDto | null;

  constructor(image: ChatImage, appUrl: string) {
    this.id = image.id;
    this.image_id = String(image.id);
    this.file_path = image.filePath;
    const { kind, id } = conversationOf(image);
    this.appointment_id = id;
    if (kind === 'text session') this.text_session_id = id;
    this.uploaded_by = image.uploadedBy;
    this.created_at = toTimestamp(image.createdAt);
    this.media_url = `${appUrl}/storage/${image.filePath}`;
    // Rows of the main application have no other name.
    this.name = image.originalName || image.filename;
    this.size = image.size;
    this.extension = image.filename.slice(image.filename.lastIndexOf('.') + 1);
    this.mime_type = image.mimeType;
    this.width = image.width;
    this.height = image.height;
    this.thumb_hash = image.thumbHash;
    this.thumbnail = thumbnailDto(thumbnailOf(image));
  }
}

export class ChatImageResponseDto {
  @ApiProperty({ example: true })
  readonly success = true;

  @ApiProperty()
  readonly data: ChatImageDto;

  constructor(data: ChatImageDto) {
    this.data = data;
  }
}
