import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import type { ChatImage } from '../entities/chat-image.entity.js';
import type { SignedUrl } from '../../storage/storage-provider.js';
import { ChatImageDto } from './chat-image.dto.js';
import { SignedUrlDto } from './signed-url.dto.js';

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

  constructor(image: ChatImage, appUrl: string, signed: SignedUrl | undefined) {
    super(image, appUrl);
    if (!signed) return;
    const { url, expires_in, expires_at } = new SignedUrlDto(signed);
    this.url = url;
    this.expires_in = expires_in;
    this.expires_at = expires_at;
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
