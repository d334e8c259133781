import { ApiExtraModels, ApiProperty, ApiPropertyOptional, getSchemaPath } from '@nestjs/swagger';
import { ArrayMaxSize, ArrayNotEmpty, IsArray, IsIn, ValidateBy } from 'class-validator';
import type { RecordedAccess } from '../../access/image-access.js';
import { AppError, ERROR_CODES, type ErrorCode } from '../../errors/app-error.js';
import type { SignedUrl } from '../../storage/storage-provider.js';
import { isVariant, type Variant, VARIANTS } from '../entities/chat-image.entity.js';
import { SignedUrlDto } from './signed-url.dto.js';

/** The most images of one request. */
const MAX_IMAGE_IDS = 100;

/** How a client names an image: by its number or its file name. There need not be such an image. */
export type ImageName = number | string;

const isImageName = (value: unknown): value is ImageName =>
  typeof value === 'number' || typeof value === 'string';

/** An image with a variant of its own, such as `{ "id": 123, "variant": "thumbnail" }`. */
export type ImageWithVariant = { readonly id: ImageName; readonly variant?: Variant };

const isImageWithVariant = (value: unknown): value is ImageWithVariant =>
  typeof value === 'object' &&
  value !== null &&
  'id' in value &&
  isImageName(value.id) &&
  (!('variant' in value) || isVariant(value.variant));

/** The body of a request for many URLs. */
export class SignedUrlsRequestDto {
  // class-validator asks the last decorator first.
  @ValidateBy(
    {
      name: 'isImageName',
      validator: { validate: (value: unknown) => isImageName(value) || isImageWithVariant(value) },
    },
    {
      each: true,
      message: 'Each of ids must be the number of an image or its file name, or { id, variant }.',
    },
  )
  @ArrayMaxSize(MAX_IMAGE_IDS, { message: `The ids may name at most ${MAX_IMAGE_IDS} images.` })
  @ArrayNotEmpty({ message: 'The ids must name at least one image.' })
  @IsArray({ message: 'The ids are required: an array of numbers and file names of images.' })
  @ApiProperty({
    description:
      'Numbers of images, or their file names, such as `1762379401_YoxmX4UUfE.jpg`. With a variant of its own: ' +
      '`{ "id": 123, "variant": "thumbnail" }`.',
    type: 'array',
    minItems: 1,
    maxItems: MAX_IMAGE_IDS,
    items: {
      oneOf: [
        { type: 'integer' },
        { type: 'string' },
        {
          type: 'object',
          required: ['id'],
          properties: {
            id: { oneOf: [{ type: 'integer' }, { type: 'string' }] },
            variant: { type: 'string', enum: [...VARIANTS] },
          },
        },
      ],
    },
    // The sample pictures of local mode and docker-compose.
    example: [1, 2],
  })
  readonly ids!: readonly (ImageName | ImageWithVariant)[];

  @IsIn(VARIANTS, { message: 'The variant must be thumbnail or original.' })
  @ApiPropertyOptional({
    description: 'What the URLs read, but for ids with a variant of their own.',
    enum: VARIANTS,
    default: 'original',
  })
  readonly variant!: Variant;
}

/** A URL of one of the images that were asked for. */
export class SignedUrlOfImageDto extends SignedUrlDto {
  @ApiProperty({ example: 123 })
  readonly id: number;

  @ApiProperty({ description: 'The same as text.', example: '123' })
  readonly image_id: string;

  constructor(access: RecordedAccess, signed: SignedUrl) {
    super(access, signed);
    this.id = access.id;
    this.image_id = String(access.id);
  }
}

/** Why there is no URL of one of the images that were asked for. */
export class NoSignedUrlDto {
  @ApiProperty({
    description: 'As it was asked for.',
    oneOf: [{ type: 'integer' }, { type: 'string' }],
    example: '1762379401_YoxmX4UUfE.jpg',
  })
  readonly id: ImageName;

  @ApiProperty({ enum: ERROR_CODES, enumName: 'ErrorCode', example: 'IMAGE_NOT_FOUND' })
  readonly error_code: ErrorCode;

  @ApiProperty({ example: 'Image not found.' })
  readonly message: string;

  constructor(id: ImageName, code: ErrorCode) {
    this.id = id;
    this.error_code = code;
    this.message = new AppError(code).message;
  }
}

@ApiExtraModels(SignedUrlOfImageDto, NoSignedUrlDto)
export class SignedUrlsResponseDto {
  @ApiProperty({ example: true })
  readonly success = true;

  @ApiProperty({
    description: 'One entry for each of `ids`, in their order.',
    type: 'array',
    items: {
      oneOf: [{ $ref: getSchemaPath(SignedUrlOfImageDto) }, { $ref: getSchemaPath(NoSignedUrlDto) }],
    },
    example: [
      {
        id: 123,
        image_id: '123',
        url: 'https://docavailable-storage.fra1.digitaloceanspaces.com/chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=…&X-Amz-Expires=3600&X-Amz-Signature=…',
        expires_in: 3600,
        expires_at: '2025-11-05T22:50:01.000000Z',
        variant: 'original',
        thumb_hash: 'HDgOJYpQmXeEh3iniXdohgZjh2CG',
        thumbnail: { width: 480, height: 640, size: 41_200 },
      },
      { id: '1762379401_nosuch0000.jpg', error_code: 'IMAGE_NOT_FOUND', message: 'Image not found.' },
    ],
  })
  readonly data: readonly (SignedUrlOfImageDto | NoSignedUrlDto)[];

  constructor(data: readonly (SignedUrlOfImageDto | NoSignedUrlDto)[]) {
    this.data = data;
  }
}
