import { Controller, Get, HttpCode, Req, Res } from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiExcludeEndpoint,
  ApiOperation,
  ApiParam,
  ApiResponse,
  ApiTags,
} from '@nestjs/swagger';
import type { Request, Response } from 'express';
import { OpenByLink } from '../auth/open-by-link.decorator.js';
import { ApiErrors } from '../errors/api-errors.decorator.js';
import { RateLimited } from '../rate-limits/user-rate-limit.guard.js';
import { Opened, type OpenedAddress, ParticipantsOnly } from './appointment-participant.guard.js';
import { ChatImagesService } from './chat-images.service.js';
import { SignedUrlDto, SignedUrlResponseDto } from './dto/signed-url.dto.js';

/** The addresses that chat messages hold: `media_url`, and the alias that older messages use. */
@ApiTags('Chat images')
@ApiBearerAuth()
@Controller(['storage/chat_images', 'api/images/chat_images'])
export class MediaController {
  constructor(private readonly chatImages: ChatImagesService) {}

  @Get('appointment_:appointmentId/:filename')
  @HttpCode(302)
  @ParticipantsOnly('stable-address')
  @OpenByLink()
  @RateLimited('signed-urls')
  @ApiOperation({
    operationId: 'openChatImage',
    summary: 'Open the picture at its stable address',
    description:
      'What `media_url` names. This page follows the redirect by itself, which browsers do not let it do to another ' +
      'host: try it with `curl` there.',
  })
  @ApiParam({
    name: 'filename',
    description: 'The last segment of `media_url`.',
    schema: { type: 'string', example: '1762379401_YoxmX4UUfE.jpg' },
  })
  @ApiParam({ name: 'appointmentId', schema: { type: 'integer', minimum: 1, example: 145 } })
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
  async open(
    @Opened() opened: OpenedAddress,
    @Req() { method }: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SignedUrlResponseDto | undefined> {
    // An image view of a web page of any origin follows it.
    response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
    // The answer to a HEAD holds no URL.
    if (method === 'HEAD') return undefined;
    if ('legacyUrl' in opened) {
      response.setHeader('Location', opened.legacyUrl);
      return undefined;
    }
    const signedUrl = await (opened.byLink
      ? this.chatImages.linkUrl(opened.image)
      : this.chatImages.signedUrl(opened.image));
    response.setHeader('Location', signedUrl.url);
    return new SignedUrlResponseDto(new SignedUrlDto(signedUrl));
  }

  /** Old pictures of text sessions, in the phases in which they are not here yet. */
  @Get('text_session_:textSessionId/:filename')
  @HttpCode(302)
  @ParticipantsOnly('stable-address')
  @OpenByLink()
  @RateLimited('signed-urls')
  @ApiExcludeEndpoint()
  openOfTextSession(
    @Opened() opened: OpenedAddress,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SignedUrlResponseDto | undefined> {
    return this.open(opened, request, response);
  }
}
