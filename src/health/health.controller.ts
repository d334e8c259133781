import { Controller, Get } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiProperty, ApiTags } from '@nestjs/swagger';
import { Public } from '../auth/public.decorator.js';
import { toTimestamp } from '../timestamp.js';
import { ApiErrors } from '../errors/api-errors.decorator.js';
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

@ApiTags('Health')
@Controller('api/health')
export class HealthController {
  constructor(private readonly readiness: Readiness) {}

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
    summary: 'Readiness: the database and the storage answer in time',
  })
  @ApiOkResponse({ type: HealthDto })
  @ApiErrors('DATABASE_UNAVAILABLE', 'STORAGE_UNAVAILABLE')
  async ready(): Promise<HealthDto> {
    await this.readiness.check();
    return new HealthDto('The image store, its database and its storage are ready.');
  }
}
