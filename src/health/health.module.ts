import { Module } from '@nestjs/common';
import { TerminusModule } from '@nestjs/terminus';
import { HealthController } from './health.controller.js';
import { Readiness } from './readiness.js';

/** Liveness for the app and readiness for the orchestrator. */
@Module({ imports: [TerminusModule], controllers: [HealthController], providers: [Readiness] })
export class HealthModule {}
