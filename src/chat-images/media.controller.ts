import { Controller, Get, Head, HttpCode, Res } from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiExcludeEndpoint,
  ApiOperation,
  ApiParam,
  ApiQuery,
  ApiResponse,
  ApiTags,
} from '@nestjs/swagger';
import type { Response } from 'express';
import { Access, Granted } from '../access/access.guard.js';
import type { RecordedAccess } from '../access/image-access.js';
import { OpenByLink } from '../auth/open-by-link.decorator.js';
import { ApiErrors } from '../errors/api-errors.decorator.js';
import { RateLimited } from '../rate-limits/user-rate-limit.guard.js';
import { ChatImagesService } from './chat-images.service.js';
import { SignedUrlDto, SignedUrlResponseDto } from './dto/signed-url.dto.js';
import { VARIANT_QUERY } from './routes/wanted-variant.js';
import {
  type LegacyAddress,
  StableAddressHeadRoute,
  StableAddressRoute,
} from './routes/stable-address.route.js';

/** The addresses that chat messages hold: `media_url`, and the alias that older messages use. */
@ApiTags('Chat images')
@ApiBearerAuth()
@Controller(['storage/chat_images', 'api/images/chat_images'])
export class MediaController {
  constructor(private readonly chatImages: ChatImagesService) {}

  /** The response to a HEAD holds no address, so nothing is recorded. Express would take the handler of GET. */
  @Head(['appointment_:appointmentId/:filename', 'text_session_:textSessionId/:filename'])
  @HttpCode(302)
  @Access(StableAddressHeadRoute)
  @OpenByLink()
  @RateLimited('signed-urls')
  @ApiExcludeEndpoint()
  head(@Granted() _: unknown, @Res({ passthrough: true }) response: Response): void {
    allowAnyOrigin(response);
  }

  @Get('appointment_:appointmentId/:filename')
  @HttpCode(302)
  @Access(StableAddressRoute)
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
  @ApiQuery(VARIANT_QUERY)
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
    'VALIDATION_FAILED',
    'TOO_MANY_REQUESTS',
    'DATABASE_UNAVAILABLE',
    'INTERNAL_ERROR',
  )
  async open(
    @Granted() opened: RecordedAccess | LegacyAddress,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SignedUrlResponseDto | undefined> {
    allowAnyOrigin(response);
    if ('legacyUrl' in opened) {
      response.setHeader('Location', opened.legacyUrl);
      return undefined;
    }
    const signedUrl = await this.chatImages.signedUrl(opened);
    response.setHeader('Location', signedUrl.url);
    return new SignedUrlResponseDto(new SignedUrlDto(opened, signedUrl));
  }

  /** The same for a picture of a text session. */
  @Get('text_session_:textSessionId/:filename')
  @HttpCode(302)
  @Access(StableAddressRoute)
  @OpenByLink()
  @RateLimited('signed-urls')
  @ApiExcludeEndpoint()
  openOfTextSession(
    @Granted() opened: RecordedAccess | LegacyAddress,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SignedUrlResponseDto | undefined> {
    return this.open(opened, response);
  }
}

/** An image view on a web page of any origin follows the redirect. */
function allowAnyOrigin(response: Response): void {
  response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
}
