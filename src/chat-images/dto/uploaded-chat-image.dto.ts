import { ApiProperty } from '@nestjs/swagger';
import { type ChatImage, type Variant, VARIANTS } from '../entities/chat-image.entity.js';
import type { SignedUrl } from '../../storage/storage-provider.js';
import { ChatImageDto } from './chat-image.dto.js';

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

  @ApiProperty({ description: 'What `signed_url` reads.', enum: VARIANTS, example: 'original' })
  readonly variant: Variant = 'original';

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
