import { Module } from '@nestjs/common';
import { AccessModule } from '../access/access.module.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { DatabaseModule } from '../database/database.module.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { PicturesModule } from '../pictures/pictures.module.js';
import { StorageModule } from '../storage/storage.module.js';
import { ChatImageUploadsService } from './chat-image-uploads.service.js';
import { reservedBytes, UploadBudget } from './upload-budget.js';
import { UploadClaims } from './upload-claims.js';
import { UploadLeases } from './upload-leases.js';
import { UploadRoute } from './upload.route.js';

@Module({
  imports: [AccessModule, DatabaseModule, PicturesModule, StorageModule],
  providers: [
    ChatImageUploadsService,
    UploadClaims,
    UploadLeases,
    UploadRoute,
    {
      provide: UploadBudget,
      inject: [SETTINGS, METRICS],
      useFactory: ({ uploads }: Settings, metrics: Metrics) => {
        const { memoryBytes, maxFileBytes, waitMs } = uploads;
        const budget = new UploadBudget(memoryBytes, reservedBytes(maxFileBytes), waitMs);
        metrics?.watchUploadMemory(memoryBytes, budget);
        return budget;
      },
    },
  ],
  exports: [ChatImageUploadsService, UploadRoute],
})
export class UploadsModule {}
