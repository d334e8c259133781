import { Module } from '@nestjs/common';
import { AccessModule } from '../access/access.module.js';
import { DatabaseModule } from '../database/database.module.js';
import { PicturesModule } from '../pictures/pictures.module.js';
import { RateLimitsModule } from '../rate-limits/rate-limits.module.js';
import { StorageModule } from '../storage/storage.module.js';
import { UploadsModule } from '../uploads/uploads.module.js';
import { ChatImageList } from './chat-image-list.js';
import { ChatImagesController } from './chat-images.controller.js';
import { ChatImagesService } from './chat-images.service.js';
import { MediaController } from './media.controller.js';
import { ImageUrls } from './image-urls.js';
import { ConversationRoute } from './routes/conversation.route.js';
import { ImageUrlRoute } from './routes/image-url.route.js';
import { ImageUrlsRoute } from './routes/image-urls.route.js';
import { ImageRoute } from './routes/image.route.js';
import { StableAddressHeadRoute, StableAddressRoute } from './routes/stable-address.route.js';
import { ThumbnailMaker } from './thumbnail-maker.js';

/** The product: uploads, lists and signed URLs, for the participants of a conversation. */
@Module({
  imports: [AccessModule, DatabaseModule, PicturesModule, RateLimitsModule, StorageModule, UploadsModule],
  controllers: [ChatImagesController, MediaController],
  providers: [
    ChatImageList,
    ChatImagesService,
    ConversationRoute,
    ImageRoute,
    ImageUrlRoute,
    ImageUrls,
    ImageUrlsRoute,
    StableAddressRoute,
    StableAddressHeadRoute,
    ThumbnailMaker,
  ],
})
export class ChatImagesModule {}
