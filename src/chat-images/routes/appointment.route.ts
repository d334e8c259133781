import { Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../../access/access.guard.js';
import { type GrantedAppointment, grantedOf, ImageAccess } from '../../access/image-access.js';
import type { AuthenticatedUser } from '../../auth/token-verifier.js';
import { parseId } from '../../database/parse-id.js';
import { AppError } from '../../errors/app-error.js';

const MAY_NOT_LIST = 'You do not have permission to see the images of this appointment.';

/** The appointment whose number is the parameter `appointmentId`. */
@Injectable()
export class AppointmentRoute implements RouteAccess<GrantedAppointment> {
  constructor(private readonly access: ImageAccess) {}

  async grant({ params }: Request, user: AuthenticatedUser): Promise<GrantedAppointment> {
    const appointmentId = parseId(String(params.appointmentId));
    if (appointmentId === undefined) throw new AppError('APPOINTMENT_NOT_FOUND');
    return grantedOf(await this.access.decideAppointment(user, appointmentId), MAY_NOT_LIST);
  }
}
