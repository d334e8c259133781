import { Module } from '@nestjs/common';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppointmentParticipantGuard } from './appointment-participant.guard.js';
import { ChatImageList } from './chat-image-list.js';
import { ChatImageUploadsService } from './chat-image-uploads.service.js';
import { ChatImagesController } from './chat-images.controller.js';
import { ChatImagesService } from './chat-images.service.js';
import { ImageAccess } from './image-access.js';
import { ImagePreparer } from './image-preparer.js';
import { ImageProcesses } from './image-processes.js';
import { MediaController } from './media.controller.js';
import { StorageReconciler } from './storage-reconciler.js';
import { StoredImageVerifier } from './stored-image-verifier.js';
import { UploadClaims } from './upload-claims.js';
import { UploadLeases } from './upload-leases.js';
import { UploadSweeper } from './upload-sweeper.service.js';
import { UploadBudget } from './upload-budget.js';

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
    StorageReconciler,
    StoredImageVerifier,
    UploadClaims,
    UploadLeases,
    UploadSweeper,
    AppointmentParticipantGuard,
    {
      provide: UploadBudget,
      inject: [SETTINGS],
      useFactory: ({ uploads }: Settings) => new UploadBudget(uploads.memoryBytes, uploads.waitMs),
    },
  ],
  exports: [ImageProcesses, StorageReconciler, UploadSweeper],
})
export class ChatImagesModule {}
