import { Module } from '@nestjs/common';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppointmentParticipantGuard } from './appointment-participant.guard.js';
import { ChatImageList } from './chat-image-list.js';
import { ChatImageUploadsService } from '../uploads/chat-image-uploads.service.js';
import { ChatImagesController } from './chat-images.controller.js';
import { ChatImagesService } from './chat-images.service.js';
import { ImageAccess } from '../access/image-access.js';
import { ImagePreparer } from '../pictures/image-preparer.js';
import { ImageProcesses } from '../pictures/image-processes.js';
import { MediaController } from './media.controller.js';
import { UploadClaims } from '../uploads/upload-claims.js';
import { UploadLeases } from '../uploads/upload-leases.js';
import { UploadBudget } from '../uploads/upload-budget.js';

/** The product: uploads, signed URLs and the permission rule. The StorageProvider comes from the StorageModule. */
@Module({
  controllers: [ChatImagesController, MediaController],
  providers: [
    ChatImageList,
    ChatImageUploadsService,
    ChatImagesService,
    ImageAccess,
    ImagePreparer,
    ImageProcesses,
    UploadClaims,
    UploadLeases,
    AppointmentParticipantGuard,
    {
      provide: UploadBudget,
      inject: [SETTINGS],
      useFactory: ({ uploads }: Settings) => new UploadBudget(uploads.memoryBytes, uploads.waitMs),
    },
  ],
  exports: [ImageProcesses],
})
export class ChatImagesModule {}
