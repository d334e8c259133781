import {
  applyDecorators,
  type CanActivate,
  createParamDecorator,
  type ExecutionContext,
  Inject,
  Injectable,
  SetMetadata,
  UseGuards,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { Request } from 'express';
import { bearerToken } from '../auth/jwt.strategy.js';
import { type AuthenticatedUser, TokenVerifier } from '../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { parseId } from '../database/parse-id.js';
import { AppError } from '../errors/app-error.js';
import { PHASE_RULES, type PhaseRules } from '../config/migration-phase.js';
import { clientNetwork } from '../rate-limits/client-network.js';
import { RateLimits } from '../rate-limits/rate-limits.js';
import { appointmentFolder, textSessionFolder } from './entities/chat-image-path.js';
import {
  type GrantedImage,
  ImageAccess,
  type ImageDecision,
  type ImageReference,
  type LinkOpener,
  type NamedByPath,
  type Refusal,
} from '../access/image-access.js';
import type { ImageName } from './dto/signed-urls.dto.js';
import { readImageIds } from './image-ids-body.js';
import { UploadBudget } from '../uploads/upload-budget.js';
import { readUploadForm, type UploadForm } from '../uploads/upload-form.js';

/** What a route concerns, and where that is found in its requests. */
type Subject =
  /** The image whose number or file name is the parameter `id`. */
  | 'image'
  /** The same, and the request is for its URL. */
  | 'image-url'
  /** The image at `appointment_{appointmentId}/{filename}`, and the request is for its URL; the migration's phase counts. */
  | 'stable-address'
  /** The images that the body names, and the request is for their URLs. */
  | 'image-urls'
  /** The appointment whose number is the parameter `appointmentId`. */
  | 'appointment'
  /** The appointment whose number is `appointment_id` in the form of an upload. */
  | 'upload-form';

/** An image as a client named it, and what was decided on it. */
export type DecidedImage = { readonly name: ImageName; readonly decision: ImageDecision };

/** The target of a stable address: an image of this service, or the public place of an old one that is not here yet. */
export type OpenedAddress =
  | {
      readonly image: GrantedImage;
      /** Whether it was opened without a token. */
      readonly byLink: boolean;
    }
  | { readonly legacyUrl: string };

type GuardedRequest = Request & {
  opened?: OpenedAddress;
  image?: GrantedImage;
  images?: readonly DecidedImage[];
  appointmentId?: number;
  uploadForm?: UploadForm;
};

export const SUBJECT = 'participants-only-subject';

/** A column holds no longer name, so none is looked up. */
const MAX_FILENAME_LENGTH = 255;

/** As much as is kept of what an app says that it is. */
const MAX_APP_VERSION_LENGTH = 100;

const MAY_NOT_SEND = 'You do not have permission to send images to this appointment.';
const MAY_NOT_LIST = 'You do not have permission to see the images of this appointment.';

/** Opens a route to the patient and the doctor of the appointment it concerns, and to nobody else. */
export function ParticipantsOnly(subject: Subject): MethodDecorator & ClassDecorator {
  return applyDecorators(SetMetadata(SUBJECT, subject), UseGuards(AppointmentParticipantGuard));
}

/**
 * The one place that enforces who may see or send an image. It resolves what the request concerns, asks
 * {@link ImageAccess}, and leaves what it resolved on the request for the handler. Where the request is for a URL, the
 * audit row is committed when the guard lets it pass.
 *
 * Rejects with UNAUTHENTICATED for a user who is no longer there, IMAGE_NOT_FOUND, APPOINTMENT_NOT_FOUND or FORBIDDEN; for
 * an upload also with the errors of {@link readUploadForm}, since the appointment is inside the form.
 */
@Injectable()
export class AppointmentParticipantGuard implements CanActivate {
  private readonly phase: PhaseRules;

  constructor(
    private readonly reflector: Reflector,
    private readonly access: ImageAccess,
    private readonly tokens: TokenVerifier,
    private readonly limits: RateLimits,
    private readonly budget: UploadBudget,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {
    this.phase = PHASE_RULES[settings.migration.phase];
  }

  canActivate(context: ExecutionContext): Promise<boolean> {
    const request = context.switchToHttp().getRequest<GuardedRequest>();
    const { user } = request;
    const subject = this.reflector.get<Subject | undefined>(SUBJECT, context.getHandler());
    const authorized = user ? this.authorize(subject, request, user) : this.authorizeNobody(subject, request);
    return authorized.then(
      () => true,
      (error: unknown) => {
        if (error instanceof AppError && error.code === 'UNAUTHENTICATED')
          this.tokens.forget(bearerToken(request) ?? '');
        throw error;
      },
    );
  }

  private async authorize(
    subject: Subject | undefined,
    request: GuardedRequest,
    user: AuthenticatedUser,
  ): Promise<void> {
    switch (subject) {
      case 'image':
      case 'image-url':
        request.image = await this.authorizedImage(
          request,
          user,
          imageReference(request.params.id),
          // The answer to a HEAD holds no URL.
          subject === 'image-url' && request.method !== 'HEAD',
        );
        return;
      case 'stable-address':
        request.opened = await this.openedAddress(request, user);
        return;
      case 'image-urls':
        request.images = await this.decidedImages(request, user);
        return;
      case 'appointment':
        request.appointmentId = await this.authorizedAppointment(user, request.params.appointmentId);
        return;
      case 'upload-form':
        request.uploadForm = await this.authorizedUpload(request, user);
        return;
      default:
        throw new AppError('FORBIDDEN');
    }
  }

  /** Without a token nothing is open but stable addresses, in the phases of the migration that say so. */
  private async authorizeNobody(subject: Subject | undefined, request: GuardedRequest): Promise<void> {
    if (subject !== 'stable-address' || this.phase.withoutToken !== 'opened by link')
      throw new AppError('UNAUTHENTICATED');
    const opener: LinkOpener = { appVersion: appVersionOf(request), network: clientNetwork(request) };
    await this.limits.consume('link-opens', opener.network);
    const recorded = request.method !== 'HEAD';
    const address = imageByPath(request.params);
    const image = address && (await this.access.openByLink(address, opener, recorded));
    if (image) {
      request.imageId = image.id;
      request.opened = { image, byLink: true };
      return;
    }
    const legacyUrl = this.legacyUrlOf(address);
    if (recorded) await this.access.countSentOn(opener);
    request.opened = { legacyUrl };
  }

  /** With a token every phase applies the full rule; for a picture that is not here yet, to the appointment of its path. */
  private async openedAddress(request: GuardedRequest, user: AuthenticatedUser): Promise<OpenedAddress> {
    const address = imageByPath(request.params);
    const recorded = request.method !== 'HEAD';
    const decision = await this.access.decide({ user, image: address, recorded });
    request.imageId = imageIdOf(decision);
    if ('granted' in decision) return { image: decision.granted, byLink: false };
    if (decision.refusal !== 'IMAGE_NOT_FOUND') return refuse(decision.refusal);
    const legacyUrl = this.legacyUrlOf(address);
    await this.authorizedAppointment(user, request.params.appointmentId);
    return { legacyUrl };
  }

  /** @throws AppError IMAGE_NOT_FOUND where the phase sends nobody on */
  private legacyUrlOf(address: NamedByPath | undefined): string {
    const { legacyMediaUrl } = this.settings.migration;
    if (!address || legacyMediaUrl === undefined || this.phase.notHereYet !== 'legacy address')
      throw new AppError('IMAGE_NOT_FOUND');
    return `${legacyMediaUrl}/${address.filePath}`;
  }

  private async authorizedImage(
    request: GuardedRequest,
    user: AuthenticatedUser,
    image: ImageReference | undefined,
    recorded: boolean,
  ): Promise<GrantedImage> {
    const decision = await this.access.decide({ user, image, recorded });
    request.imageId = imageIdOf(decision);
    if ('refusal' in decision) return refuse(decision.refusal);
    return decision.granted;
  }

  private async decidedImages(
    request: GuardedRequest,
    user: AuthenticatedUser,
  ): Promise<readonly DecidedImage[]> {
    const names = await readImageIds(request);
    // The request itself has been counted.
    await this.limits.consume('signed-urls', user.id, names.length - 1);
    const decisions = await this.access.decideEach(
      names.map((name) => ({ user, image: imageReference(String(name)), recorded: true })),
    );
    request.imageIds = decisions.map(imageIdOf).filter((id) => id !== undefined);
    return decisions.map((decision, index) => {
      if ('refusal' in decision && decision.refusal === 'UNAUTHENTICATED') refuse(decision.refusal);
      return { name: names[index] ?? '', decision };
    });
  }

  private async authorizedAppointment(
    user: AuthenticatedUser,
    text: string | string[] | undefined,
  ): Promise<number> {
    const appointmentId = typeof text === 'string' ? parseId(text) : undefined;
    if (appointmentId === undefined) throw new AppError('APPOINTMENT_NOT_FOUND');
    refuse(await this.access.refusalForAppointment(user, appointmentId), MAY_NOT_LIST);
    return appointmentId;
  }

  private async authorizedUpload(request: GuardedRequest, user: AuthenticatedUser): Promise<UploadForm> {
    // Before a byte of the form is read.
    if (!(await this.access.userExists(user))) throw new AppError('UNAUTHENTICATED');
    const memory = this.budget.begin(user.id);
    // The picture is in memory until its answer has left, or its client has gone.
    const left = new AbortController();
    request.res?.once('close', () => {
      memory.release();
      left.abort();
    });
    return readUploadForm(request, {
      memory,
      left: left.signal,
      slowSeconds: this.settings.uploads.slowSeconds,
      authorize: async (appointmentId) =>
        refuse(await this.access.refusalForAppointment(user, appointmentId), MAY_NOT_SEND),
    });
  }
}

function imageIdOf(decision: ImageDecision): number | undefined {
  return 'granted' in decision ? decision.granted.id : decision.imageId;
}

function refuse(refusal: Refusal): never;
function refuse(refusal: Refusal | undefined, forbidden: string): void;
function refuse(refusal: Refusal | undefined, forbidden?: string): void {
  if (!refusal) return;
  throw new AppError(
    refusal,
    refusal === 'FORBIDDEN' && forbidden !== undefined ? { message: forbidden } : {},
  );
}

/** The target of the stable address that the {@link AppointmentParticipantGuard} has decided on. */
export const Opened = createParamDecorator((_: unknown, context: ExecutionContext): OpenedAddress => {
  const { opened } = context.switchToHttp().getRequest<GuardedRequest>();
  if (!opened) throw new Error('Opened is used on a route that is not ParticipantsOnly.');
  return opened;
});

/** The image that the {@link AppointmentParticipantGuard} has resolved and decided on. */
export const AuthorizedImage = createParamDecorator((_: unknown, context: ExecutionContext): GrantedImage => {
  const { image } = context.switchToHttp().getRequest<GuardedRequest>();
  if (!image) throw new Error('AuthorizedImage is used on a route that is not ParticipantsOnly.');
  return image;
});

/** The images that the {@link AppointmentParticipantGuard} has decided on, each on its own: some may be refused. */
export const DecidedImages = createParamDecorator(
  (_: unknown, context: ExecutionContext): readonly DecidedImage[] => {
    const { images } = context.switchToHttp().getRequest<GuardedRequest>();
    if (!images) throw new Error('DecidedImages is used on a route that is not ParticipantsOnly.');
    return images;
  },
);

/** The number of the appointment that the {@link AppointmentParticipantGuard} has decided on. */
export const AuthorizedAppointment = createParamDecorator((_: unknown, context: ExecutionContext): number => {
  const { appointmentId } = context.switchToHttp().getRequest<GuardedRequest>();
  if (appointmentId === undefined)
    throw new Error('AuthorizedAppointment is used on a route that is not ParticipantsOnly.');
  return appointmentId;
});

/** The upload that the {@link AppointmentParticipantGuard} has read and decided on. */
export const AuthorizedUpload = createParamDecorator((_: unknown, context: ExecutionContext): UploadForm => {
  const { uploadForm } = context.switchToHttp().getRequest<GuardedRequest>();
  if (!uploadForm) throw new Error('AuthorizedUpload is used on a route that is not ParticipantsOnly.');
  return uploadForm;
});

/** Apps in the field name an image by its number or by its file name. Anything else names none. */
function imageReference(text: string | string[] | undefined): ImageReference | undefined {
  if (typeof text !== 'string') return undefined;
  const id = parseId(text);
  return id === undefined ? imageByFilename(text) : { id };
}

/** Old pictures of text sessions lie beside those of appointments. */
function imageByPath(params: Request['params']): NamedByPath | undefined {
  const appointmentId = parseId(String(params.appointmentId));
  const textSessionId = parseId(String(params.textSessionId));
  const image = imageByFilename(String(params.filename));
  if (!image) return undefined;
  if (appointmentId !== undefined)
    return { ...image, filePath: `${appointmentFolder(appointmentId)}/${image.filename}` };
  if (textSessionId !== undefined)
    return { ...image, filePath: `${textSessionFolder(textSessionId)}/${image.filename}` };
  return undefined;
}

function appVersionOf(request: Request): string {
  const named = [request.get('X-App-Version'), request.get('User-Agent')].map((text) => text?.trim());
  const version = named.find((text) => text !== undefined && text !== '') ?? 'unknown';
  // Headers are Latin-1 on the wire; what is not printable is no version.
  return version.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, MAX_APP_VERSION_LENGTH);
}

/** Looks nothing up that can't be a file name, among it what PostgreSQL would refuse. */
function imageByFilename(filename: string): { readonly filename: string } | undefined {
  return filename.length <= MAX_FILENAME_LENGTH && /^[\w-][\w.-]*$/.test(filename) ? { filename } : undefined;
}
