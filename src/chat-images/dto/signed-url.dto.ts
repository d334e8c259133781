import { ApiProperty } from '@nestjs/swagger';
import type { SignedUrl } from '../../storage/storage-provider.js';
import { toTimestamp } from '../../timestamp.js';

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

  constructor(signed: SignedUrl) {
    this.url = signed.url;
    this.expires_in = signed.expiresIn;
    this.expires_at = toTimestamp(signed.expiresAt);
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
