import { Inject, Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../access/access.guard.js';
import { grantedConversation, ImageAccess } from '../access/image-access.js';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import type { NamedConversation } from '../conversations/conversation.js';
import { AppError } from '../errors/app-error.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { BYTES, inSpan, keepTrace } from '../observability/spans.js';
import { lengthOf } from '../storage/byte-pieces.js';
import { UploadBudget } from './upload-budget.js';
import { readUploadForm, type UploadForm } from './upload-form.js';

/**
 * The conversation that `appointment_id` names in the form of an upload. The conversation is inside the form, so the form
 * is read here; a user who may not upload is told before the picture is read.
 */
@Injectable()
export class UploadRoute implements RouteAccess<UploadForm> {
  constructor(
    private readonly access: ImageAccess,
    private readonly budget: UploadBudget,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(METRICS) private readonly metrics: Metrics,
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
    const started = performance.now();
    const form = await inSpan('receive', async (span) => {
      const received = await readUploadForm(request, {
        memory,
        left: left.signal,
        slowSeconds: this.settings.uploads.slowSeconds,
        textSessions: this.settings.textSessions,
        maxFileBytes: this.settings.uploads.maxFileBytes,
        authorize: keepTrace(async (named: NamedConversation) =>
          grantedConversation(await this.access.decideConversation(user, named), named, 'send images to'),
        ),
      });
      span?.setAttribute(BYTES, lengthOf(received.pieces));
      return received;
    });
    this.metrics?.uploadPassed(
      'received',
      performance.now() - started - form.waitedMs,
      lengthOf(form.pieces),
    );
    return form;
  }
}
