import { Inject, Injectable } from '@nestjs/common';
import { SETTINGS, type Settings } from '../config/settings.js';
import { preparedStatement, RequestDatabase } from '../database/request-database.js';
import { AppError } from '../errors/app-error.js';
import { CHAT_IMAGE_COLUMNS, type ChatImage } from './entities/chat-image.entity.js';
import type { GrantedImage } from '../access/image-access.js';
import { type SignedUrl, StorageProvider } from '../storage/storage-provider.js';

const FIND_IMAGE = preparedStatement(
  'find-image',
  `SELECT ${CHAT_IMAGE_COLUMNS} FROM chat_images WHERE id = $1::bigint AND state = 'stored'`,
);

/** What participants get to see of an image. Who may has been decided, and the audit row of a URL committed, before. */
@Injectable()
export class ChatImagesService {
  constructor(
    private readonly database: RequestDatabase,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /** @throws AppError IMAGE_NOT_FOUND when the image has just been removed */
  async image({ id }: GrantedImage): Promise<ChatImage> {
    const [image] = await this.database.run<ChatImage>(FIND_IMAGE, [id]);
    if (!image) throw new AppError('IMAGE_NOT_FOUND');
    return image;
  }

  /**
   * The signing path. Within one window of the settings the URL of an image stays the same, so that phones and browsers keep
   * the picture that they have; it is then as old as the window, and works for less long.
   */
  async signedUrl({ filePath }: Pick<ChatImage, 'filePath'>): Promise<SignedUrl> {
    const { signedUrlExpiresSeconds, signedUrlWindowSeconds } = this.settings;
    const now = Date.now();
    if (signedUrlWindowSeconds === 0)
      return this.storage.signedUrl(filePath, signedUrlExpiresSeconds, new Date(now));
    const windowBegan = now - (now % (signedUrlWindowSeconds * 1000));
    const signed = await this.storage.signedUrl(filePath, signedUrlExpiresSeconds, new Date(windowBegan));
    return { ...signed, expiresIn: Math.floor((signed.expiresAt.getTime() - now) / 1000) };
  }

  /** A URL for whoever has opened a stable address without a token: it works for a short time. */
  linkUrl({ filePath }: Pick<ChatImage, 'filePath'>): Promise<SignedUrl> {
    return this.storage.signedUrl(filePath, this.settings.migration.linkUrlExpiresSeconds, new Date());
  }
}
