import { ApiProperty } from '@nestjs/swagger';
import type { RecordedAccess } from '../../access/image-access.js';
import type { SignedUrl } from '../../storage/storage-provider.js';
import { toTimestamp } from '../../timestamp.js';
import { type Variant, VARIANTS } from '../entities/chat-image.entity.js';
import { THUMB_HASH_PROPERTY, THUMBNAIL_PROPERTY, thumbnailDto, type ThumbnailDto } from './thumbnail.dto.js';

/** A URL that reads the picture until it expires. */
export class SignedUrlDto {
  @ApiProperty({
    description: 'Reads the picture without further credentials until `expires_at`.',
    example:
      'https://docavailable-storage.fra1.digitaloceanspaces.com/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=…&X-Amz-Expires=3600&X-Amz-Signature=…',
  })
  readonly url: string;

  @ApiProperty({ description: 'Seconds until the URL stops working.', example: 3600 })
  readonly expires_in: number;

  @ApiProperty({ description: 'When the URL stops working, in UTC.', example: '2025-11-05T22:50:01.000000Z' })
  readonly expires_at: string;

  @ApiProperty({
    description: 'What the URL reads: a thumbnail that can not be had in time is the whole picture.',
    enum: VARIANTS,
    example: 'original',
  })
  readonly variant: Variant;

  @ApiProperty(THUMB_HASH_PROPERTY)
  readonly thumb_hash: string | null;

  @ApiProperty(THUMBNAIL_PROPERTY)
  readonly thumbnail: ThumbnailDto | null;

  constructor({ variant, thumbnail }: RecordedAccess, signed: SignedUrl) {
    this.url = signed.url;
    this.expires_in = signed.expiresIn;
    this.expires_at = toTimestamp(signed.expiresAt);
    this.variant = variant;
    this.thumb_hash = thumbnail?.hash ?? null;
    this.thumbnail = thumbnailDto(thumbnail);
  }
}

export class SignedUrlResponseDto {
  @ApiProperty({ example: true })
  readonly success = true;

  @ApiProperty()
  readonly data: SignedUrlDto;

  constructor(data: SignedUrlDto) {
    this.data = data;
  }
}
