import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Appointment } from '../appointments/appointment.entity.js';
import { AppointmentParticipantGuard } from './appointment-participant.guard.js';
import { ChatImageAccess } from './chat-image-access.entity.js';
import { ChatImage } from './chat-image.entity.js';
import { ChatImagesController } from './chat-images.controller.js';
import { ChatImagesService } from './chat-images.service.js';
import { MediaController } from './media.controller.js';

/** The product: uploads, signed URLs and the permission rule. The StorageProvider comes from the StorageModule. */
@Module({
  imports: [TypeOrmModule.forFeature([Appointment, ChatImage, ChatImageAccess])],
  controllers: [ChatImagesController, MediaController],
  providers: [ChatImagesService, AppointmentParticipantGuard],
})
export class ChatImagesModule {}
