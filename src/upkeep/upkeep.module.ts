import { Module } from '@nestjs/common';
import { AccessModule } from '../access/access.module.js';
import { StorageModule } from '../storage/storage.module.js';
import { ImageExplainer } from './image-explainer.js';
import { StorageReconciler } from './storage-reconciler.js';
import { StoredImageVerifier } from './stored-image-verifier.js';
import { UploadSweeper } from './upload-sweeper.service.js';

/** Sweeper, reconciler, verifier and explainer, for the server's schedule and for the commands. */
@Module({
  imports: [AccessModule, StorageModule],
  providers: [ImageExplainer, StorageReconciler, StoredImageVerifier, UploadSweeper],
  exports: [ImageExplainer, StorageReconciler, StoredImageVerifier, UploadSweeper],
})
export class UpkeepModule {}
