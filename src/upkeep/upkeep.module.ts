import { Module } from '@nestjs/common';
import { StorageModule } from '../storage/storage.module.js';
import { StorageReconciler } from './storage-reconciler.js';
import { StoredImageVerifier } from './stored-image-verifier.js';
import { UploadSweeper } from './upload-sweeper.service.js';

/** Sweeper, reconciler and verifier, for the server's schedule and for the commands. */
@Module({
  imports: [StorageModule],
  providers: [StorageReconciler, StoredImageVerifier, UploadSweeper],
  exports: [StorageReconciler, StoredImageVerifier, UploadSweeper],
})
export class UpkeepModule {}
