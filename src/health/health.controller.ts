import { Controller, Get, Inject } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiProperty, ApiPropertyOptional, ApiTags } from '@nestjs/swagger';
import { HttpAdapterHost } from '@nestjs/core';
import { Public } from '../auth/public.decorator.js';
import { toTimestamp } from '../timestamp.js';
import { ApiErrors } from '../errors/api-errors.decorator.js';
import { AppError } from '../errors/app-error.js';
import type { LeanExpressAdapter } from '../http/lean-express.adapter.js';
import { type RedisState, SharedRedis } from '../rate-limits/shared-redis.js';
import { Readiness } from './readiness.js';

export class HealthDto {
  @ApiProperty({ example: 'ok' })
  readonly status = 'ok';

  @ApiProperty({ example: 'The image store is running.' })
  readonly message: string;

  @ApiProperty({ example: '2025-11-05T21:50:01.000000Z' })
  readonly timestamp = toTimestamp(new Date());

  constructor(message: string) {
    this.message = message;
  }
}

export class ReadinessDto extends HealthDto {
  @ApiPropertyOptional({
    enum: ['up', 'away'],
    example: 'up',
    description:
      'Only with REDIS_URL. While Redis is away, each process counts rate limits by itself, and is ready all the same.',
  })
  readonly redis: 'up' | 'away' | undefined;

  constructor(message: string, redis: RedisState) {
    super(message);
    this.redis = redis === 'off' ? undefined : redis;
  }
}

@ApiTags('Health')
@Controller('api/health')
export class HealthController {
  constructor(
    private readonly readiness: Readiness,
    private readonly redis: SharedRedis,
    @Inject(HttpAdapterHost) private readonly host: HttpAdapterHost<LeanExpressAdapter>,
  ) {}

  @Get()
  @Public('says only that the process runs')
  @ApiOperation({ operationId: 'getHealth', summary: 'Liveness: the process answers' })
  @ApiOkResponse({ type: HealthDto })
  live(): HealthDto {
    return new HealthDto('The image store is running.');
  }

  @Get('ready')
  @Public('says only whether the backends answer')
  @ApiOperation({
    operationId: 'getReadiness',
    summary: 'Readiness: the database and the storage answer in time, and the process is not about to end',
  })
  @ApiOkResponse({ type: ReadinessDto })
  @ApiErrors('DATABASE_UNAVAILABLE', 'STORAGE_UNAVAILABLE', 'OVERLOADED')
  async ready(): Promise<ReadinessDto> {
    if (this.host.httpAdapter.isStopping) throw new AppError('OVERLOADED');
    await this.readiness.check();
    return new ReadinessDto('The image store, its database and its storage are ready.', this.redis.state);
  }
}
