import { type DynamicModule, Module } from '@nestjs/common';
import { APP_GUARD } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Logger } from 'pino';
import { AccessGuard } from './access/access.guard.js';
import { AuthModule } from './auth/auth.module.js';
import { JwtAuthGuard } from './auth/jwt-auth.guard.js';
import { ChatImagesModule } from './chat-images/chat-images.module.js';
import { ENTITIES } from './chat-images/entities/entities.js';
import type { Settings } from './config/settings.js';
import { isUnreachable } from './database/connection-hints.js';
import { dataSourceOptions } from './database/data-source-options.js';
import { UPKEEP_CONNECTIONS } from './database/request-database.js';
import { HealthModule } from './health/health.module.js';
import { HttpModule } from './http/http.module.js';
import type { Metrics } from './observability/metrics.js';
import { ProcessModule } from './observability/process.module.js';
import { RateLimitsModule } from './rate-limits/rate-limits.module.js';
import { UserRateLimitGuard } from './rate-limits/user-rate-limit.guard.js';
import { LocalStorageModule } from './storage/local-storage.module.js';
import { UpkeepModule } from './upkeep/upkeep.module.js';

/** The whole service, of one set of settings. */
@Module({})
export class AppModule {
  /** @param metrics only of a server: commands count nothing */
  static with(settings: Settings, logger: Logger, metrics?: Metrics): DynamicModule {
    return {
      module: AppModule,
      imports: [
        ProcessModule.with(settings, logger, metrics),
        TypeOrmModule.forRoot({
          ...dataSourceOptions({ ...settings.database, poolSize: UPKEEP_CONNECTIONS }, ENTITIES),
          retryAttempts: 3,
          retryDelay: 1000,
          // An unreachable server may be reachable a moment later. A wrong setting stays wrong.
          toRetry: isUnreachable,
          verboseRetryLog: false,
        }),
        AuthModule,
        RateLimitsModule,
        ChatImagesModule,
        ...(settings.storage.driver === 'local' ? [LocalStorageModule] : []),
        UpkeepModule,
        HttpModule,
        HealthModule,
      ],
      providers: [
        // Guards run in this order: who is the user, has the user asked too often, may the user see the subject.
        { provide: APP_GUARD, useClass: JwtAuthGuard },
        { provide: APP_GUARD, useClass: UserRateLimitGuard },
        { provide: APP_GUARD, useClass: AccessGuard },
      ],
    };
  }
}
