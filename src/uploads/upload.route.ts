import { Inject, Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../access/access.guard.js';
import { grantedOf, ImageAccess } from '../access/image-access.js';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { UploadBudget } from './upload-budget.js';
import { readUploadForm, type UploadForm } from './upload-form.js';

const MAY_NOT_SEND = 'You do not have permission to send images to this appointment.';

/**
 * The appointment whose number is `appointment_id` in the form of an upload. The appointment is inside the form, so the
 * form is read here; a user who may not upload is told before the picture is read.
 */
@Injectable()
export class UploadRoute implements RouteAccess<UploadForm> {
  constructor(
    private readonly access: ImageAccess,
    private readonly budget: UploadBudget,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  async grant(request: Request, user: AuthenticatedUser): Promise<UploadForm> {
    if (!(await this.access.userExists(user))) throw new AppError('UNAUTHENTICATED');
    const memory = this.budget.begin(user.id);
    // The picture stays in memory until the response has left, or the client has gone.
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
        grantedOf(await this.access.decideAppointment(user, appointmentId), MAY_NOT_SEND),
    });
  }
}
