import { Module } from '@nestjs/common';
import { LocalStorageController } from './local-storage.controller.js';
import { LocalStorageProvider } from './local-storage.provider.js';
import { StorageProvider } from './storage-provider.js';
import { StorageModule } from './storage.module.js';

/** The route that serves the URLs of the local driver. The root module imports it with that driver only. */
@Module({
  imports: [StorageModule],
  controllers: [LocalStorageController],
  providers: [{ provide: LocalStorageProvider, useExisting: StorageProvider }],
})
export class LocalStorageModule {}
