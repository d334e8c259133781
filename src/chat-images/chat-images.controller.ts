import { Controller, Get, Head, HttpCode, Inject, Post, Query, Req } from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiBody,
  ApiConsumes,
  ApiExcludeEndpoint,
  ApiHeader,
  ApiOkResponse,
  ApiOperation,
  ApiParam,
  type ApiParamOptions,
  ApiQuery,
  ApiTags,
} from '@nestjs/swagger';
import type { Request } from 'express';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { CurrentUser } from '../auth/current-user.decorator.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { ApiErrors } from '../errors/api-errors.decorator.js';
import { VALIDATION_PIPE } from '../errors/validation.pipe.js';
import { Access, Granted } from '../access/access.guard.js';
import type { GrantedConversation, GrantedImage, RecordedAccess } from '../access/image-access.js';
import { RateLimited } from '../rate-limits/user-rate-limit.guard.js';
import { ChatImageUploadsService } from '../uploads/chat-image-uploads.service.js';
import { UploadChatImageDto } from '../uploads/upload-chat-image.dto.js';
import type { UploadForm } from '../uploads/upload-form.js';
import { UploadRoute } from '../uploads/upload.route.js';
import { ChatImageList } from './chat-image-list.js';
import { ChatImagesService } from './chat-images.service.js';
import { ChatImageListDto, ChatImageListResponseDto, ListedChatImageDto } from './dto/chat-image-list.dto.js';
import { ChatImageDto, ChatImageResponseDto } from './dto/chat-image.dto.js';
import { ListQueryDto } from './dto/list-query.dto.js';
import { SignedUrlDto, SignedUrlResponseDto } from './dto/signed-url.dto.js';
import {
  NoSignedUrlDto,
  SignedUrlOfImageDto,
  SignedUrlsRequestDto,
  SignedUrlsResponseDto,
} from './dto/signed-urls.dto.js';
import { UploadedChatImageDto, UploadedChatImageResponseDto } from './dto/uploaded-chat-image.dto.js';
import { ConversationRoute } from './routes/conversation.route.js';
import { ImageUrlRoute } from './routes/image-url.route.js';
import { type DecidedImage, ImageUrlsRoute } from './routes/image-urls.route.js';
import { ImageRoute } from './routes/image.route.js';
import { VARIANT_QUERY, wantedVariant } from './routes/wanted-variant.js';

const IMAGE_NAME: ApiParamOptions = {
  name: 'id',
  description: 'The number of the image, or its file name.',
  schema: { type: 'string' },
  examples: { number: { value: '1' }, 'file name': { value: '1762379401_YoxmX4UUfE.jpg' } },
};

@ApiTags('Chat images')
@ApiBearerAuth()
@ApiErrors(
  'UNAUTHENTICATED',
  'FORBIDDEN',
  'TOO_MANY_REQUESTS',
  'DATABASE_UNAVAILABLE',
  'STORAGE_UNAVAILABLE',
  'INTERNAL_ERROR',
)
@Controller('api')
export class ChatImagesController {
  constructor(
    private readonly uploads: ChatImageUploadsService,
    private readonly chatImages: ChatImagesService,
    private readonly listed: ChatImageList,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  @Post('upload/chat-image')
  @HttpCode(200)
  @Access(UploadRoute)
  @RateLimited('uploads')
  @ApiOperation({ operationId: 'uploadChatImage', summary: 'Upload a picture to a chat' })
  @ApiHeader({
    name: 'Idempotency-Key',
    required: false,
    description: 'Names this upload and all its tries: the first answer is given again for 24 hours.',
    schema: { type: 'string', maxLength: 255 },
  })
  @ApiConsumes('multipart/form-data')
  @ApiBody({ type: UploadChatImageDto })
  @ApiOkResponse({ type: UploadedChatImageResponseDto })
  @ApiErrors(
    'APPOINTMENT_NOT_FOUND',
    'IDEMPOTENCY_KEY_REUSED',
    // The class's errors of the same status are replaced by these, so they are named again.
    'OVERLOADED',
    'DATABASE_UNAVAILABLE',
    'STORAGE_UNAVAILABLE',
    'FILE_TOO_LARGE',
    'UNSUPPORTED_MEDIA_TYPE',
    'VALIDATION_FAILED',
    'INVALID_IMAGE',
  )
  async upload(
    @Granted() form: UploadForm,
    @CurrentUser() user: AuthenticatedUser,
    @Req() request: Request,
  ): Promise<UploadedChatImageResponseDto> {
    const { image, access } = await this.uploads.upload(user, form);
    request.imageId = image.id;
    const signedUrl = await this.chatImages.signedUrl(access);
    return new UploadedChatImageResponseDto(new UploadedChatImageDto(image, signedUrl, this.settings.appUrl));
  }

  /** The response to a HEAD holds no URL, so nothing is recorded. Express would take the handler of GET. */
  @Head('chat-images/:id/signed-url')
  @Access(ImageRoute)
  @RateLimited('signed-urls')
  @ApiExcludeEndpoint()
  headSignedUrl(@Granted() _: GrantedImage, @Req() request: Request): void {
    // The guard has decided; a HEAD has no body.
    wantedVariant(request);
  }

  @Get('chat-images/:id/signed-url')
  @Access(ImageUrlRoute)
  @RateLimited('signed-urls')
  @ApiOperation({ operationId: 'getSignedUrl', summary: 'Get a URL that reads a picture for an hour' })
  @ApiParam(IMAGE_NAME)
  @ApiQuery(VARIANT_QUERY)
  @ApiOkResponse({ type: SignedUrlResponseDto })
  @ApiErrors('IMAGE_NOT_FOUND', 'APPOINTMENT_NOT_FOUND', 'VALIDATION_FAILED')
  async signedUrl(@Granted() access: RecordedAccess): Promise<SignedUrlResponseDto> {
    return new SignedUrlResponseDto(new SignedUrlDto(access, await this.chatImages.signedUrl(access)));
  }

  @Post('chat-images/signed-urls')
  @HttpCode(200)
  @Access(ImageUrlsRoute)
  @RateLimited('signed-urls')
  @ApiOperation({
    operationId: 'getSignedUrls',
    summary: 'Get the URLs of up to a hundred pictures at once',
    description:
      'Each of the pictures counts as one request for a URL. One that is refused does not harm the others.',
  })
  @ApiBody({ type: SignedUrlsRequestDto })
  @ApiOkResponse({ type: SignedUrlsResponseDto })
  @ApiErrors('FILE_TOO_LARGE', 'UNSUPPORTED_MEDIA_TYPE', 'VALIDATION_FAILED')
  async signedUrls(@Granted() images: readonly DecidedImage[]): Promise<SignedUrlsResponseDto> {
    const entries = images.map(async ({ name, decision }) =>
      'refusal' in decision
        ? new NoSignedUrlDto(name, decision.refusal)
        : new SignedUrlOfImageDto(decision.granted, await this.chatImages.signedUrl(decision.granted)),
    );
    return new SignedUrlsResponseDto(await Promise.all(entries));
  }

  @Get('chat-images/:id')
  @Access(ImageRoute)
  @RateLimited('signed-urls')
  @ApiOperation({ operationId: 'getChatImage', summary: 'Get what is known of a picture' })
  @ApiParam(IMAGE_NAME)
  @ApiOkResponse({ type: ChatImageResponseDto })
  @ApiErrors('IMAGE_NOT_FOUND', 'APPOINTMENT_NOT_FOUND')
  async image(@Granted() granted: GrantedImage): Promise<ChatImageResponseDto> {
    const image = await this.chatImages.image(granted);
    return new ChatImageResponseDto(new ChatImageDto(image, this.settings.appUrl));
  }

  /** As for the signed URL: the response to a HEAD holds no URLs. */
  @Head(['appointments/:appointmentId/chat-images', 'text-sessions/:textSessionId/chat-images'])
  @Access(ConversationRoute)
  @RateLimited('signed-urls')
  @ApiExcludeEndpoint()
  headList(@Granted() _: GrantedConversation, @Query(VALIDATION_PIPE) __: ListQueryDto): void {
    // The guard has decided, and the pipe has checked the query; a HEAD has no body.
  }

  @Get('appointments/:appointmentId/chat-images')
  @Access(ConversationRoute)
  @RateLimited('signed-urls')
  @ApiOperation({
    operationId: 'listChatImages',
    summary: "List an appointment's pictures, newest first",
    description: 'With `signed_urls=true` the request counts as `limit` requests for a URL.',
  })
  @ApiParam({ name: 'appointmentId', schema: { type: 'integer', minimum: 1, example: 145 } })
  @ApiOkResponse({ type: ChatImageListResponseDto })
  @ApiErrors('APPOINTMENT_NOT_FOUND', 'VALIDATION_FAILED')
  async list(
    @Granted() conversation: GrantedConversation,
    @CurrentUser() user: AuthenticatedUser,
    @Query(VALIDATION_PIPE) query: ListQueryDto,
  ): Promise<ChatImageListResponseDto> {
    const { images, nextCursor } = query.signed_urls
      ? await this.listed.pageWithUrls(user, conversation, query)
      : await this.listed.page(conversation, query);
    const entries = images.map(
      async ({ image, access }) =>
        new ListedChatImageDto(
          image,
          this.settings.appUrl,
          access && new SignedUrlDto(access, await this.chatImages.signedUrl(access)),
        ),
    );
    return new ChatImageListResponseDto(new ChatImageListDto(await Promise.all(entries), nextCursor));
  }

  @Get('text-sessions/:textSessionId/chat-images')
  @Access(ConversationRoute)
  @RateLimited('signed-urls')
  @ApiOperation({
    operationId: 'listTextSessionChatImages',
    summary: "List a text session's pictures, newest first",
    description: 'With `signed_urls=true` the request counts as `limit` requests for a URL.',
  })
  @ApiParam({ name: 'textSessionId', schema: { type: 'integer', minimum: 1, example: 147 } })
  @ApiOkResponse({ type: ChatImageListResponseDto })
  @ApiErrors('APPOINTMENT_NOT_FOUND', 'VALIDATION_FAILED')
  listOfTextSession(
    @Granted() textSession: GrantedConversation,
    @CurrentUser() user: AuthenticatedUser,
    @Query(VALIDATION_PIPE) query: ListQueryDto,
  ): Promise<ChatImageListResponseDto> {
    return this.list(textSession, user, query);
  }
}
