import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Appointment } from '../appointments/appointment.entity.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppointmentParticipantGuard } from './appointment-participant.guard.js';
import { ChatImageAccess } from './chat-image-access.entity.js';
import { ChatImage } from './chat-image.entity.js';
import { ChatImageUploadsService } from './chat-image-uploads.service.js';
import { ChatImagesController } from './chat-images.controller.js';
import { ChatImagesService } from './chat-images.service.js';
import { ImageCleaner } from './image-cleaner.js';
import { ImagePreparer } from './image-preparer.js';
import { MediaController } from './media.controller.js';
import { StorageReconciler } from './storage-reconciler.js';
import { StoredImageVerifier } from './stored-image-verifier.js';
import { UploadSweeper } from './upload-sweeper.service.js';
import { UploadBudget } from './upload-budget.js';

/** The product: uploads, signed URLs and the permission rule. The StorageProvider comes from the StorageModule. */
@Module({
  imports: [TypeOrmModule.forFeature([Appointment, ChatImage, ChatImageAccess])],
  controllers: [ChatImagesController, MediaController],
  providers: [
    ChatImageUploadsService,
    ChatImagesService,
    ImageCleaner,
    ImagePreparer,
    StorageReconciler,
    StoredImageVerifier,
    UploadSweeper,
    AppointmentParticipantGuard,
    {
      provide: UploadBudget,
      inject: [SETTINGS],
      useFactory: ({ uploads }: Settings) => new UploadBudget(uploads.memoryBytes, uploads.waitMs),
    },
  ],
})
export class ChatImagesModule {}
