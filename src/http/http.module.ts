import { Module } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { AuthModule } from '../auth/auth.module.js';
import { RateLimitsModule } from '../rate-limits/rate-limits.module.js';
import { AppErrorFilter } from './app-error.filter.js';
import { RequestLog } from './request-log.js';

@Module({
  imports: [AuthModule, RateLimitsModule],
  providers: [RequestLog, { provide: APP_FILTER, useClass: AppErrorFilter }],
})
export class HttpModule {}
