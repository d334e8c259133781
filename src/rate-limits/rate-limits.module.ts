import { Module } from '@nestjs/common';
import { RateLimits } from './rate-limits.js';
import { SharedRedis } from './shared-redis.js';

@Module({ providers: [RateLimits, SharedRedis], exports: [RateLimits, SharedRedis] })
export class RateLimitsModule {}
