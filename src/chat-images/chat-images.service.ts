import { Inject, Injectable } from '@nestjs/common';
import { SETTINGS, type Settings } from '../config/settings.js';
import { type SignedUrl, StorageProvider } from './storage/storage-provider.js';

/** The signing path. Who may take it has been decided, and the audit row committed, before. */
@Injectable()
export class ChatImagesService {
  constructor(
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /** Signs a URL of the object at `filePath`. */
  signedUrl(filePath: string): Promise<SignedUrl> {
    return this.storage.signedUrl(filePath, this.settings.signedUrlExpiresSeconds, new Date());
  }
}
