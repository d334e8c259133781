import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { type ChatImage, type Variant, VARIANTS } from '../entities/chat-image.entity.js';
import { ChatImageDto } from './chat-image.dto.js';
import type { SignedUrlDto } from './signed-url.dto.js';

/** A picture of a list, with a URL when the list was asked for with `signed_urls=true`. */
export class ListedChatImageDto extends ChatImageDto {
  @ApiPropertyOptional({
    description: 'With `signed_urls=true`: reads the picture without further credentials until `expires_at`.',
    example:
      'https://docavailable-storage.fra1.digitaloceanspaces.com/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=…&X-Amz-Expires=3600&X-Amz-Signature=…',
  })
  readonly url?: string;

  @ApiPropertyOptional({
    description: 'With `signed_urls=true`: seconds until `url` stops working.',
    example: 3600,
  })
  readonly expires_in?: number;

  @ApiPropertyOptional({
    description: 'With `signed_urls=true`: when `url` stops working, in UTC.',
    example: '2025-11-05T22:50:01.000000Z',
  })
  readonly expires_at?: string;

  @ApiPropertyOptional({
    description:
      'With `signed_urls=true`: what `url` reads. A thumbnail that can not be had in time is the whole picture.',
    enum: VARIANTS,
    example: 'original',
  })
  readonly variant?: Variant;

  constructor(image: ChatImage, appUrl: string, signed: SignedUrlDto | undefined) {
    super(image, appUrl);
    // Newer than the row that was listed: a missing thumbnail is made for the URL.
    if (signed) Object.assign(this, signed);
  }
}

export class ChatImageListDto {
  @ApiProperty({ description: 'Newest first.', type: [ListedChatImageDto] })
  readonly images: readonly ListedChatImageDto[];

  @ApiProperty({
    description: 'The `cursor` of the next page; `null` on the last one.',
    type: 'string',
    nullable: true,
    example: 'MTc2MjM3OTQwMTAwMC4xMjM',
  })
  readonly next_cursor: string | null;

  constructor(images: readonly ListedChatImageDto[], nextCursor: string | null) {
    this.images = images;
    this.next_cursor = nextCursor;
  }
}

export class ChatImageListResponseDto {
  @ApiProperty({ example: true })
  readonly success = true;

  @ApiProperty()
  readonly data: ChatImageListDto;

  constructor(data: ChatImageListDto) {
    this.data = data;
  }
}
