import { Controller, Get, Inject, Req } from '@nestjs/common';
import { ApiExcludeController } from '@nestjs/swagger';
import type { Request } from 'express';
import { DataSource } from 'typeorm';
import { Access, Granted } from '../../access/access.guard.js';
import type { GrantedImage } from '../../access/image-access.js';
import { Public } from '../../auth/public.decorator.js';
import { signToken } from '../../auth/sign-token.js';
import { ChatImageAccess } from '../../chat-images/entities/chat-image-access.entity.js';
import type { Variant } from '../../chat-images/entities/chat-image.entity.js';
import { ImageRoute } from '../../chat-images/routes/image.route.js';
import { SETTINGS, type Settings } from '../../config/settings.js';
import { AppError } from '../../errors/app-error.js';
import { RateLimited } from '../../rate-limits/user-rate-limit.guard.js';
import { toTimestamp } from '../../timestamp.js';
import { APPOINTMENT, DOCTOR, OUTSIDER, PATIENT } from '../sample-data.js';

const TOKEN_LIFETIME_SECONDS = 3600;

const MAX_TRAIL_ROWS = 100;

const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'];

type DemoUser = { readonly id: number; readonly token: string };

/** What the demo's page begins with. */
type DemoSession = {
  readonly appointment_id: number;
  /** Seconds. */
  readonly url_expires_in: number;
  readonly users: Readonly<Record<'patient' | 'doctor' | 'outsider', DemoUser>>;
};

/** A URL of an image that was handed out. */
type TrailEntry = { readonly user_id: number; readonly variant: Variant; readonly accessed_at: string };

/** What the demo's page needs beside the service's own routes. Mounted with DEMO_ENABLED only. */
@ApiExcludeController()
@Controller('demo')
export class DemoController {
  constructor(
    private readonly database: DataSource,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /** @throws AppError FORBIDDEN for a page of another name, whose owner has pointed the name at this machine */
  @Get('session.json')
  @Public('the tokens are of the sample users alone, and DEMO_ENABLED is refused in production')
  session(@Req() request: Request): DemoSession {
    const { appUrl, jwt, signedUrlExpiresSeconds } = this.settings;
    if (![new URL(appUrl).hostname, ...LOOPBACK].includes(request.hostname))
      throw new AppError('FORBIDDEN', { message: `Please open the demo at ${appUrl}/demo.` });
    const user = (id: number): DemoUser => ({ id, token: signToken(id, jwt, TOKEN_LIFETIME_SECONDS) });
    return {
      appointment_id: APPOINTMENT,
      url_expires_in: signedUrlExpiresSeconds,
      users: { patient: user(PATIENT), doctor: user(DOCTOR), outsider: user(OUTSIDER) },
    };
  }

  /** The audit trail of an image, newest first, for whom may see the image. */
  @Get('images/:id/trail')
  @Access(ImageRoute)
  @RateLimited('signed-urls')
  async trail(@Granted() { id }: GrantedImage): Promise<{ readonly trail: readonly TrailEntry[] }> {
    const rows = await this.database.getRepository(ChatImageAccess).find({
      where: { chatImageId: id },
      order: { id: 'DESC' },
      take: MAX_TRAIL_ROWS,
    });
    return {
      trail: rows.map(({ accessedBy, variant, accessedAt }) => ({
        user_id: accessedBy,
        variant,
        accessed_at: toTimestamp(accessedAt),
      })),
    };
  }
}
