import { Controller, Get, HttpCode, Res } from '@nestjs/common';
import { ApiBearerAuth, ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import type { Response } from 'express';
import { ApiErrors } from '../errors/api-errors.decorator.js';
import { RateLimited } from '../rate-limits/user-rate-limit.guard.js';
import { AuthorizedImage, ParticipantsOnly } from './appointment-participant.guard.js';
import { ChatImagesService } from './chat-images.service.js';
import type { GrantedImage } from './image-access.js';
import { SignedUrlDto, SignedUrlResponseDto } from './dto/signed-url.dto.js';

/** The addresses that chat messages hold: `media_url`, and the alias that older messages use. */
@ApiTags('Chat images')
@ApiBearerAuth()
@Controller(['storage/chat_images', 'api/images/chat_images'])
export class MediaController {
  constructor(private readonly chatImages: ChatImagesService) {}

  @Get('appointment_:appointmentId/:filename')
  @HttpCode(302)
  @ParticipantsOnly('image-url-by-path')
  @RateLimited('signed-urls')
  @ApiOperation({ summary: 'Open the picture at its stable address' })
  @ApiResponse({
    status: 302,
    description: 'To a fresh signed URL.',
    type: SignedUrlResponseDto,
    headers: { Location: { schema: { type: 'string', format: 'uri' } } },
  })
  @ApiErrors(
    'UNAUTHENTICATED',
    'FORBIDDEN',
    'IMAGE_NOT_FOUND',
    'APPOINTMENT_NOT_FOUND',
    'TOO_MANY_REQUESTS',
    'DATABASE_UNAVAILABLE',
    'INTERNAL_ERROR',
  )
  open(
    @AuthorizedImage() image: GrantedImage,
    @Res({ passthrough: true }) response: Response,
  ): SignedUrlResponseDto {
    const signedUrl = this.chatImages.signedUrl(image);
    response.setHeader('Location', signedUrl.url);
    return new SignedUrlResponseDto(new SignedUrlDto(signedUrl));
  }
}
