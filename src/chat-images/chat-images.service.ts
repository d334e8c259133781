import { Inject, Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import type { AuthenticatedUser } from '../auth/jwt.strategy.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { AppError } from '../errors/app-error.js';
import { ChatImage } from './chat-image.entity.js';
import { type SignedUrl, StorageProvider } from './storage/storage-provider.js';

/** The signing path. Who may take it has been decided by the guard before. */
@Injectable()
export class ChatImagesService {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * Hands out a URL of an image. Its audit row is committed before the URL exists; without the row there is no URL.
   *
   * @throws AppError IMAGE_NOT_FOUND when the image has just been removed
   */
  async signedUrl(user: AuthenticatedUser, image: ChatImage): Promise<SignedUrl> {
    if (!(await this.recordAccess(user, image))) throw new AppError('IMAGE_NOT_FOUND');
    return this.sign(image);
  }

  /** Signs a URL whose audit row has been committed already. */
  sign(image: ChatImage): Promise<SignedUrl> {
    return this.storage.signedUrl(image.filePath, this.settings.signedUrlExpiresSeconds, new Date());
  }

  /**
   * Commits an audit row.
   *
   * @returns false, and no row, when the image is no longer there
   */
  async recordAccess(user: AuthenticatedUser, image: ChatImage): Promise<boolean> {
    const rows = await this.dataSource.query<unknown[]>(
      `WITH trail AS (
         INSERT INTO chat_image_access (chat_image_id, accessed_by)
         SELECT id, $2 FROM chat_images WHERE id = $1 AND state = 'stored' RETURNING id
       )
       SELECT id FROM trail`,
      [image.id, user.id],
    );
    return rows.length > 0;
  }
}
