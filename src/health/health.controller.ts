import { Controller, Get, Inject } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiProperty, ApiTags } from '@nestjs/swagger';
import { HealthIndicatorService } from '@nestjs/terminus';
import { Public } from '../auth/public.decorator.js';
import { StorageProvider } from '../chat-images/storage/storage-provider.js';
import { RequestDatabase } from '../database/request-database.js';
import { toTimestamp } from '../timestamp.js';
import { ApiErrors } from '../errors/api-errors.decorator.js';
import { AppError } from '../errors/app-error.js';

/** How long each backend has for its answer, in milliseconds. */
const CHECK_TIMEOUT_MS = 2000;

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
  constructor(
    private readonly indicators: HealthIndicatorService,
    private readonly database: RequestDatabase,
    @Inject(StorageProvider) private readonly storage: StorageProvider,
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
    summary: 'Readiness: the database and the storage answer in time',
  })
  @ApiOkResponse({ type: HealthDto })
  @ApiErrors('DATABASE_UNAVAILABLE', 'STORAGE_UNAVAILABLE')
  async ready(): Promise<HealthDto> {
    const [database, storage] = await Promise.all([
      this.indicators
        .check('database')
        .attempt(() => this.database.ping())
        .withTimeout(CHECK_TIMEOUT_MS),
      this.indicators
        .check('storage')
        .attempt(({ signal }) => this.storage.ping(signal))
        .withTimeout(CHECK_TIMEOUT_MS),
    ]);
    if (database.database.status !== 'up') throw new AppError('DATABASE_UNAVAILABLE');
    if (storage.storage.status !== 'up') throw new AppError('STORAGE_UNAVAILABLE');
    return new HealthDto('The image store, its database and its storage are ready.');
  }
}
