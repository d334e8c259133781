import { Controller, Get, Header, HttpCode, Inject, Post } from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiBody,
  ApiConsumes,
  ApiHeader,
  ApiOkResponse,
  ApiOperation,
  ApiParam,
  ApiTags,
} from '@nestjs/swagger';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { CurrentUser } from '../auth/current-user.decorator.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { ApiErrors } from '../errors/api-errors.decorator.js';
import { RateLimited } from '../rate-limits/user-rate-limit.guard.js';
import { AuthorizedImage, AuthorizedUpload, ParticipantsOnly } from './appointment-participant.guard.js';
import { ChatImageUploadsService } from './chat-image-uploads.service.js';
import { ChatImagesService } from './chat-images.service.js';
import type { GrantedImage } from './image-access.js';
import { SignedUrlDto, SignedUrlResponseDto } from './dto/signed-url.dto.js';
import {
  UploadChatImageDto,
  UploadedChatImageDto,
  UploadedChatImageResponseDto,
} from './dto/uploaded-chat-image.dto.js';
import type { UploadForm } from './upload-form.js';

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
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  @Post('upload/chat-image')
  @HttpCode(200)
  @Header('Cache-Control', 'no-store')
  @ParticipantsOnly('upload-form')
  @RateLimited('uploads')
  @ApiOperation({ summary: 'Upload a picture to the chat of an appointment' })
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
    @CurrentUser() user: AuthenticatedUser,
    @AuthorizedUpload() form: UploadForm,
  ): Promise<UploadedChatImageResponseDto> {
    const image = await this.uploads.upload(user, form);
    const signedUrl = await this.chatImages.signedUrl(image.filePath);
    return new UploadedChatImageResponseDto(new UploadedChatImageDto(image, signedUrl, this.settings.appUrl));
  }

  @Get('chat-images/:id/signed-url')
  @Header('Cache-Control', 'no-store')
  @ParticipantsOnly('image-url')
  @RateLimited('signed-urls')
  @ApiOperation({ summary: 'Get a URL that reads a picture for an hour' })
  @ApiParam({
    name: 'id',
    description: 'The number of the image, or its file name.',
    schema: { type: 'string' },
    examples: { number: { value: '123' }, 'file name': { value: '1762379401_YoxmX4UUfE.jpg' } },
  })
  @ApiOkResponse({ type: SignedUrlResponseDto })
  @ApiErrors('IMAGE_NOT_FOUND', 'APPOINTMENT_NOT_FOUND')
  async signedUrl(@AuthorizedImage() { filePath }: GrantedImage): Promise<SignedUrlResponseDto> {
    return new SignedUrlResponseDto(new SignedUrlDto(await this.chatImages.signedUrl(filePath)));
  }
}
