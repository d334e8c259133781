import { type DynamicModule, Module } from '@nestjs/common';
import type { Settings } from '../config/settings.js';
import { LocalStorageController } from './local-storage.controller.js';
import { LocalStorageProvider } from './local-storage.provider.js';
import { S3StorageProvider } from './s3-storage.provider.js';
import { StorageProvider } from './storage-provider.js';

/** Provides the StorageProvider that the settings choose. */
@Module({})
export class StorageModule {
  /** The local driver brings the route that serves its URLs; with S3 that route does not exist. */
  static with({ storage, appUrl }: Settings): DynamicModule {
    const common = { module: StorageModule, global: true, exports: [StorageProvider] };
    if (storage.driver === 's3') {
      return {
        ...common,
        providers: [{ provide: StorageProvider, useFactory: () => new S3StorageProvider(storage) }],
      };
    }
    return {
      ...common,
      controllers: [LocalStorageController],
      providers: [
        { provide: LocalStorageProvider, useFactory: () => new LocalStorageProvider(storage, appUrl) },
        { provide: StorageProvider, useExisting: LocalStorageProvider },
      ],
    };
  }
}
