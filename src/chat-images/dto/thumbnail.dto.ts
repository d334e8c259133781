import { ApiProperty } from '@nestjs/swagger';
import type { StoredThumbnail } from '../../access/image-access.js';

/** A thumbnail: upright, in sRGB, without metadata, and not animated. Its longest side has at most 640 pixels. */
export class ThumbnailDto {
  @ApiProperty({ description: 'Pixels.', example: 480 })
  readonly width: number;

  @ApiProperty({ description: 'Pixels.', example: 640 })
  readonly height: number;

  @ApiProperty({ description: 'Bytes.', example: 41_200 })
  readonly size: number;

  constructor({ width, height, size }: StoredThumbnail) {
    this.width = width;
    this.height = height;
    this.size = size;
  }
}

/** The thumbnail of a response; `null` where there is none. */
export const thumbnailDto = (thumbnail: StoredThumbnail | null): ThumbnailDto | null =>
  thumbnail && new ThumbnailDto(thumbnail);

/** How a response describes a thumbnail. */
export const THUMBNAIL_PROPERTY = {
  description: 'The small picture that `variant=thumbnail` hands out; `null` where it is not made yet.',
  type: () => ThumbnailDto,
  nullable: true,
} as const;

/** How a response describes a ThumbHash. */
export const THUMB_HASH_PROPERTY = {
  description:
    'A blurred placeholder of the picture: a [ThumbHash](https://evanw.github.io/thumbhash/) in base64; `null` where it is not made yet.',
  type: 'string',
  nullable: true,
  example: 'HDgOJYpQmXeEh3iniXdohgZjh2CG',
} as const;
