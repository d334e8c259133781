import { Module } from '@nestjs/common';
import { TerminusModule } from '@nestjs/terminus';
import { DatabaseModule } from '../database/database.module.js';
import { RateLimitsModule } from '../rate-limits/rate-limits.module.js';
import { StorageModule } from '../storage/storage.module.js';
import { HealthController } from './health.controller.js';
import { Readiness } from './readiness.js';

/** Liveness for the app and readiness for the orchestrator. */
@Module({
  imports: [DatabaseModule, RateLimitsModule, StorageModule, TerminusModule],
  controllers: [HealthController],
  providers: [Readiness],
})
export class HealthModule {}
