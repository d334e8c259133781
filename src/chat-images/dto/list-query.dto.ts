import { ApiPropertyOptional } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { IsBoolean, IsIn, IsInstance, IsInt, IsOptional, Max, Min } from 'class-validator';
import { type Variant, VARIANTS } from '../entities/chat-image.entity.js';
import { ListPosition } from '../list-position.js';

const MAX_LIMIT = 100;
const DEFAULT_LIMIT = 50;

const LIMIT = { message: `The limit must be a whole number from 1 to ${MAX_LIMIT}.` };
const CURSOR = { message: 'The cursor must be a next_cursor of this list.' };
const VARIANT = { message: 'The variant must be thumbnail or original.' };
const SIGNED_URLS = { message: 'The signed_urls must be true or false.' };

/** The query of a list's request: text, as clients write it. What is sent twice is an array, and not valid. */
export class ListQueryDto {
  @Transform(({ value }) => (typeof value === 'string' && /^\d{1,3}$/.test(value) ? Number(value) : NaN))
  @IsInt(LIMIT)
  @Min(1, LIMIT)
  @Max(MAX_LIMIT, LIMIT)
  @ApiPropertyOptional({ type: 'integer', minimum: 1, maximum: MAX_LIMIT, default: DEFAULT_LIMIT })
  readonly limit: number = DEFAULT_LIMIT;

  @Transform(({ value }) => (typeof value === 'string' ? ListPosition.parse(value) : null) ?? 'none')
  @IsOptional()
  @IsInstance(ListPosition, CURSOR)
  @ApiPropertyOptional({ type: 'string', description: 'The `next_cursor` of the page before.' })
  readonly cursor?: ListPosition;

  @Transform(({ value }): unknown => (value === 'true' ? true : value === 'false' ? false : value))
  @IsBoolean(SIGNED_URLS)
  @ApiPropertyOptional({ type: 'boolean', default: false })
  readonly signed_urls: boolean = false;

  @IsIn(VARIANTS, VARIANT)
  @ApiPropertyOptional({
    enum: VARIANTS,
    default: 'original',
    description: 'With `signed_urls=true`: what the URLs read.',
  })
  readonly variant: Variant = 'original';
}
