import { Module } from '@nestjs/common';
import { SETTINGS, type Settings } from '../config/settings.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { LocalStorageProvider } from './local-storage.provider.js';
import { S3StorageProvider } from './s3-storage.provider.js';
import { StorageProvider } from './storage-provider.js';

/** The StorageProvider that the settings choose. */
@Module({
  providers: [
    {
      provide: StorageProvider,
      inject: [SETTINGS, METRICS],
      useFactory: ({ storage, appUrl }: Settings, metrics: Metrics): StorageProvider =>
        storage.driver === 's3'
          ? new S3StorageProvider(storage, metrics)
          : new LocalStorageProvider(storage, appUrl),
    },
  ],
  exports: [StorageProvider],
})
export class StorageModule {}
