import {
  type ArgumentsHost,
  Catch,
  type ExceptionFilter,
  HttpException,
  Inject,
  Injectable,
  type OnApplicationShutdown,
} from '@nestjs/common';
import type { Request, Response } from 'express';
import { isNativeError } from 'node:util/types';
import type { Logger } from 'pino';
import { bearerToken } from '../auth/jwt.strategy.js';
import { TokenVerifier } from '../auth/token-verifier.js';
import { ObjectNotFoundError, StorageUnavailableError } from '../storage/storage-errors.js';
import { DatabaseUnavailableError } from '../database/database-failure.js';
import { FloodSummary } from '../observability/flood-summary.js';
import { LOGGER } from '../observability/logger.js';
import { clientNetwork } from '../rate-limits/client-network.js';
import { RateLimits } from '../rate-limits/rate-limits.js';
import { AppError, type ErrorCode } from '../errors/app-error.js';
import { describeFailure } from './describe-failure.js';
import { ErrorBodyDto } from '../errors/error-body.dto.js';

/** The framework's own refusals in the catalogue. */
const CODE_BY_STATUS: Readonly<Record<number, ErrorCode>> = {
  400: 'VALIDATION_FAILED',
  401: 'UNAUTHENTICATED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  405: 'NOT_FOUND',
  413: 'FILE_TOO_LARGE',
  415: 'UNSUPPORTED_MEDIA_TYPE',
  422: 'VALIDATION_FAILED',
  429: 'TOO_MANY_REQUESTS',
};

/**
 * The one place that turns an exception of any layer into the response of the contract. Requests for unknown addresses come
 * here without passing a guard, so they are counted here: against the client's network, or with a valid token against the
 * user's budget.
 */
@Injectable()
@Catch()
export class AppErrorFilter implements ExceptionFilter, OnApplicationShutdown {
  private readonly floods: FloodSummary;

  constructor(
    private readonly tokens: TokenVerifier,
    private readonly limits: RateLimits,
    @Inject(LOGGER) private readonly logger: Logger,
  ) {
    this.floods = new FloodSummary(logger);
  }

  catch(exception: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<Request>();
    const response = http.getResponse<Response>();
    if (toAppError(exception).code !== 'NOT_FOUND') {
      this.answer(exception, response);
      return;
    }
    void this.countUnknownAddress(request).then(
      () => this.answer(exception, response),
      (refusal: unknown) => this.answer(refusal, response),
    );
  }

  private async countUnknownAddress(request: Request): Promise<unknown> {
    const user = await this.tokens.verify(bearerToken(request) ?? '');
    return user
      ? this.limits.consume('signed-urls', user.id)
      : this.limits.consume('unauthenticated', clientNetwork(request));
  }

  private answer(exception: unknown, response: Response): void {
    const error = toAppError(exception);
    const { requestId = '' } = response;
    response.errorCode = error.code;
    if (error.status >= 500 && !error.logged) this.log(requestId, error.code, exception);
    if (response.headersSent) {
      // The response has begun. Cutting it is the only way to say that it is incomplete.
      response.destroy();
      return;
    }
    if (error.status === 401) response.setHeader('WWW-Authenticate', 'Bearer');
    if (error.retryAfterSeconds !== undefined) response.setHeader('Retry-After', error.retryAfterSeconds);
    response.status(error.status).json(new ErrorBodyDto(error, requestId));
  }

  onApplicationShutdown(): void {
    this.floods.flush();
  }

  /** Failures from the same place, for the same reason, are of one kind. */
  private log(requestId: string, code: ErrorCode, exception: unknown): void {
    const description = describeFailure(exception);
    const { causes, storageStatus, storageError } = description;
    const reason = causes.map((cause) => [cause.name, cause.code].join(' ')).join(' of ');
    if (this.floods.admits({ code, reason, at: causes[0]?.at[0], storageStatus, storageError }))
      this.logger.error({ requestId, code, ...description }, 'failure');
  }
}

function toAppError(exception: unknown): AppError {
  if (exception instanceof AppError) return exception;
  const cause = exception;
  if (exception instanceof StorageUnavailableError) return new AppError('STORAGE_UNAVAILABLE', { cause });
  if (exception instanceof ObjectNotFoundError) return new AppError('IMAGE_NOT_FOUND', { cause });
  if (exception instanceof DatabaseUnavailableError) return new AppError('DATABASE_UNAVAILABLE', { cause });
  return new AppError(CODE_BY_STATUS[statusOf(exception)] ?? 'INTERNAL_ERROR', { cause });
}

/** The status of an exception of NestJS, or of an error of Express and its middleware. */
function statusOf(exception: unknown): number {
  if (exception instanceof HttpException) return exception.getStatus();
  if (isNativeError(exception) && 'status' in exception && typeof exception.status === 'number')
    return exception.status;
  return 500;
}
