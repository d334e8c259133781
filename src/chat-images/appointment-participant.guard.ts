import {
  applyDecorators,
  type CanActivate,
  createParamDecorator,
  type ExecutionContext,
  Injectable,
  SetMetadata,
  UseGuards,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { InjectRepository } from '@nestjs/typeorm';
import type { Request } from 'express';
import { type FindOptionsWhere, Repository } from 'typeorm';
import { Appointment } from '../appointments/appointment.entity.js';
import type { AuthenticatedUser } from '../auth/jwt.strategy.js';
import { parseId } from '../database/parse-id.js';
import { AppError } from '../errors/app-error.js';
import { appointmentFolder } from './chat-image-path.js';
import { ChatImage } from './chat-image.entity.js';
import { UploadBudget } from './upload-budget.js';
import { readUploadForm, type UploadForm } from './upload-form.js';

/**
 * Where a route's appointment is found: that of the image whose number or file name is the parameter `id`; that of
 * the image at `appointment_{appointmentId}/{filename}`; or the `appointment_id` in the form of an upload.
 */
type AppointmentSource = 'image' | 'image-path' | 'upload-form';

type GuardedRequest = Request & { chatImage?: ChatImage; uploadForm?: UploadForm };

export const APPOINTMENT_SOURCE = 'appointment-source';

/** A column holds no longer name, so none is looked up. */
const MAX_FILENAME_LENGTH = 255;

/** Opens a route to the patient and the doctor of the appointment it concerns, and to nobody else. */
export function ParticipantsOnly(source: AppointmentSource): MethodDecorator & ClassDecorator {
  return applyDecorators(SetMetadata(APPOINTMENT_SOURCE, source), UseGuards(AppointmentParticipantGuard));
}

/**
 * THE permission rule: an image may be seen, and sent, by the appointment's patient and doctor. No role and no flag
 * opens it to anybody else.
 */
export function isParticipant(user: AuthenticatedUser, appointment: Appointment): boolean {
  return user.id === appointment.patientId || user.id === appointment.doctorId;
}

/**
 * The one place that decides who may see or send an image. It resolves the request to its appointment, applies
 * {@link isParticipant}, and leaves what it resolved on the request for the handler.
 *
 * Rejects with IMAGE_NOT_FOUND, APPOINTMENT_NOT_FOUND or FORBIDDEN; for an upload also with the errors of
 * {@link readUploadForm}, since the appointment is inside the form.
 */
@Injectable()
export class AppointmentParticipantGuard implements CanActivate {
  constructor(
    private readonly reflector: Reflector,
    @InjectRepository(ChatImage) private readonly images: Repository<ChatImage>,
    @InjectRepository(Appointment) private readonly appointments: Repository<Appointment>,
    private readonly budget: UploadBudget,
  ) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const request = context.switchToHttp().getRequest<GuardedRequest>();
    const { user } = request;
    if (!user) throw new AppError('UNAUTHENTICATED');
    switch (this.reflector.get<AppointmentSource | undefined>(APPOINTMENT_SOURCE, context.getHandler())) {
      case 'image':
        request.chatImage = await this.authorizedImage(user, imageByIdOrFilename(request.params.id));
        return true;
      case 'image-path':
        request.chatImage = await this.authorizedImage(user, imageByPath(request.params));
        return true;
      case 'upload-form':
        request.uploadForm = await this.authorizedUpload(request, user);
        return true;
      default:
        throw new AppError('FORBIDDEN');
    }
  }

  private authorizedUpload(request: GuardedRequest, user: AuthenticatedUser): Promise<UploadForm> {
    const memory = this.budget.begin();
    // The picture is in memory until its answer has left, or its client has gone.
    request.res?.once('close', () => memory.release());
    return readUploadForm(request, memory, async (id) => {
      this.decide(user, await this.appointments.findOneBy({ id }));
    });
  }

  private async authorizedImage(
    user: AuthenticatedUser,
    where: FindOptionsWhere<ChatImage>,
  ): Promise<ChatImage> {
    const image = await this.images.findOne({
      where: { ...where, state: 'stored' },
      relations: { appointment: true },
    });
    if (!image) throw new AppError('IMAGE_NOT_FOUND');
    this.decide(user, image.appointment);
    return image;
  }

  private decide(user: AuthenticatedUser, appointment: Appointment | null | undefined): void {
    if (!appointment) throw new AppError('APPOINTMENT_NOT_FOUND');
    if (!isParticipant(user, appointment)) throw new AppError('FORBIDDEN');
  }
}

/** The image that the {@link AppointmentParticipantGuard} has resolved and decided on. */
export const AuthorizedImage = createParamDecorator((_: unknown, context: ExecutionContext): ChatImage => {
  const { chatImage } = context.switchToHttp().getRequest<GuardedRequest>();
  if (!chatImage) throw new Error('AuthorizedImage is used on a route that is not ParticipantsOnly.');
  return chatImage;
});

/** The upload that the {@link AppointmentParticipantGuard} has read and decided on. */
export const AuthorizedUpload = createParamDecorator((_: unknown, context: ExecutionContext): UploadForm => {
  const { uploadForm } = context.switchToHttp().getRequest<GuardedRequest>();
  if (!uploadForm) throw new Error('AuthorizedUpload is used on a route that is not ParticipantsOnly.');
  return uploadForm;
});

/** Apps in the field name an image by its number or by its file name. */
function imageByIdOrFilename(text: string | string[] | undefined): FindOptionsWhere<ChatImage> {
  if (typeof text !== 'string') throw new AppError('IMAGE_NOT_FOUND');
  const id = parseId(text);
  return id === undefined ? { filename: filename(text) } : { id };
}

function imageByPath(params: Request['params']): FindOptionsWhere<ChatImage> {
  const appointmentId = parseId(String(params.appointmentId));
  if (appointmentId === undefined) throw new AppError('IMAGE_NOT_FOUND');
  const name = filename(String(params.filename));
  return { filename: name, appointmentId, filePath: `${appointmentFolder(appointmentId)}/${name}` };
}

/** @throws AppError IMAGE_NOT_FOUND for a text that can't be a file name, among them one PostgreSQL would refuse */
function filename(text: string): string {
  if (text.length > MAX_FILENAME_LENGTH || !/^[\w.-]+$/.test(text)) throw new AppError('IMAGE_NOT_FOUND');
  return text;
}
