import { type DynamicModule, Module, ValidationPipe } from '@nestjs/common';
import { APP_FILTER, APP_GUARD, APP_PIPE } from '@nestjs/core';
import { ThrottlerModule } from '@nestjs/throttler';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Logger } from 'pino';
import { JwtAuthGuard } from './auth/jwt-auth.guard.js';
import { JwtStrategy } from './auth/jwt.strategy.js';
import { ChatImagesModule } from './chat-images/chat-images.module.js';
import { StorageModule } from './chat-images/storage/storage.module.js';
import { SETTINGS, type Settings } from './config/settings.js';
import { dataSourceOptions } from './database/data-source-options.js';
import { validationFailed } from './errors/app-error.js';
import { AppErrorFilter } from './errors/app-error.filter.js';
import { HealthModule } from './health/health.module.js';
import { LOGGER } from './logging/logger.js';
import { UserRateLimitGuard } from './rate-limits/user-rate-limit.guard.js';
import { User } from './users/user.entity.js';

const MINUTE_MS = 60_000;

/** A limit counts the last minute and never blocks for longer than it takes to fall below it again. */
const NO_BLOCK_MS = 0;

/** The whole service, of one set of settings. */
@Module({})
export class AppModule {
  static with(settings: Settings, logger: Logger): DynamicModule {
    const throttler = { ttl: MINUTE_MS, blockDuration: NO_BLOCK_MS, setHeaders: false };
    const { signedUrlsPerMinute, uploadsPerMinute } = settings.rateLimits;
    return {
      module: AppModule,
      global: true,
      imports: [
        TypeOrmModule.forRoot({
          ...dataSourceOptions(settings.database),
          retryAttempts: 3,
          retryDelay: 1000,
        }),
        TypeOrmModule.forFeature([User]),
        ThrottlerModule.forRoot([
          {
            ...throttler,
            name: 'signed-urls',
            limit: signedUrlsPerMinute,
            skipIf: UserRateLimitGuard.skips('signed-urls'),
          },
          {
            ...throttler,
            name: 'uploads',
            limit: uploadsPerMinute,
            skipIf: UserRateLimitGuard.skips('uploads'),
          },
        ]),
        StorageModule.with(settings),
        ChatImagesModule,
        HealthModule,
      ],
      providers: [
        { provide: SETTINGS, useValue: settings },
        { provide: LOGGER, useValue: logger },
        JwtStrategy,
        // Guards run in this order: who is it, and has that user asked too often.
        { provide: APP_GUARD, useClass: JwtAuthGuard },
        { provide: APP_GUARD, useClass: UserRateLimitGuard },
        { provide: APP_FILTER, useClass: AppErrorFilter },
        {
          provide: APP_PIPE,
          useValue: new ValidationPipe({
            whitelist: true,
            transform: true,
            exceptionFactory: (errors) =>
              validationFailed(
                Object.fromEntries(
                  errors.map((error) => [error.property, Object.values(error.constraints ?? {})]),
                ),
              ),
          }),
        },
      ],
      exports: [SETTINGS, LOGGER],
    };
  }
}
