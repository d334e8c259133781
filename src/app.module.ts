import { type DynamicModule, Module } from '@nestjs/common';
import { APP_FILTER, APP_GUARD } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Logger } from 'pino';
import { JwtAuthGuard } from './auth/jwt-auth.guard.js';
import { JwtStrategy } from './auth/jwt.strategy.js';
import { SessionRevocations } from './auth/session-revocations.js';
import { TokenVerifier } from './auth/token-verifier.js';
import { ChatImagesModule } from './chat-images/chat-images.module.js';
import { StorageModule } from './storage/storage.module.js';
import { SETTINGS, type Settings } from './config/settings.js';
import { isUnreachable } from './database/connection-hints.js';
import { ENTITIES } from './chat-images/entities/entities.js';
import { dataSourceOptions } from './database/data-source-options.js';
import { RequestDatabase, UPKEEP_CONNECTIONS } from './database/request-database.js';
import { AppErrorFilter } from './http/app-error.filter.js';
import { HealthModule } from './health/health.module.js';
import { LOGGER } from './observability/logger.js';
import { RequestLog } from './http/request-log.js';
import { RateLimits } from './rate-limits/rate-limits.js';
import { UpkeepModule } from './upkeep/upkeep.module.js';
import { UserRateLimitGuard } from './rate-limits/user-rate-limit.guard.js';

/** The whole service, of one set of settings. */
@Module({})
export class AppModule {
  static with(settings: Settings, logger: Logger): DynamicModule {
    return {
      module: AppModule,
      global: true,
      imports: [
        TypeOrmModule.forRoot({
          ...dataSourceOptions({ ...settings.database, poolSize: UPKEEP_CONNECTIONS }, ENTITIES),
          retryAttempts: 3,
          retryDelay: 1000,
          // Only an unreachable server may answer a moment later. A wrong setting does not.
          toRetry: isUnreachable,
          verboseRetryLog: false,
        }),
        StorageModule.with(settings),
        ChatImagesModule,
        HealthModule,
        UpkeepModule,
      ],
      providers: [
        { provide: SETTINGS, useValue: settings },
        { provide: LOGGER, useValue: logger },
        RequestDatabase,
        RateLimits,
        RequestLog,
        JwtStrategy,
        SessionRevocations,
        TokenVerifier,
        // Guards run in this order: who is it, and has that user asked too often.
        { provide: APP_GUARD, useClass: JwtAuthGuard },
        { provide: APP_GUARD, useClass: UserRateLimitGuard },
        { provide: APP_FILTER, useClass: AppErrorFilter },
      ],
      exports: [SETTINGS, LOGGER, RequestDatabase, RateLimits, TokenVerifier],
    };
  }
}
