import { Inject, Injectable } from '@nestjs/common';
import type { GrantedImage, RecordedAccess } from '../access/image-access.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { preparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase } from '../database/request-database.js';
import { AppError } from '../errors/app-error.js';
import { type SignedUrl, StorageProvider } from '../storage/storage-provider.js';
import { CHAT_IMAGE_COLUMNS, type ChatImage } from './entities/chat-image.entity.js';

const FIND_IMAGE = preparedStatement(
  'find-image',
  `SELECT ${CHAT_IMAGE_COLUMNS} FROM chat_images WHERE id = $1::bigint AND state = 'stored'`,
);

/** Images and their signed URLs, for participants. The guard has decided before who may see an image. */
@Injectable()
export class ChatImagesService {
  constructor(
    private readonly database: RequestDatabase,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /** @throws AppError IMAGE_NOT_FOUND when the image was just deleted */
  async image({ id }: GrantedImage): Promise<ChatImage> {
    const [image] = await this.database.run<ChatImage>(FIND_IMAGE, [id]);
    if (!image) throw new AppError('IMAGE_NOT_FOUND');
    return image;
  }

  /**
   * The signing path: the only one. Within one window of the settings the URL of an image stays the same, so that phones
   * and browsers keep the picture that they have. Such a URL is as old as the window, and works for less long. A stable
   * address that was opened without a token gets a fresh URL, which works for a short time.
   */
  async signedUrl({ objectKey, byLink }: RecordedAccess): Promise<SignedUrl> {
    const { signedUrlExpiresSeconds, signedUrlWindowSeconds, migration } = this.settings;
    const now = Date.now();
    if (byLink) return this.storage.signedUrl(objectKey, migration.linkUrlExpiresSeconds, new Date(now));
    if (signedUrlWindowSeconds === 0)
      return this.storage.signedUrl(objectKey, signedUrlExpiresSeconds, new Date(now));
    const windowBegan = now - (now % (signedUrlWindowSeconds * 1000));
    const signed = await this.storage.signedUrl(objectKey, signedUrlExpiresSeconds, new Date(windowBegan));
    return { ...signed, expiresIn: Math.floor((signed.expiresAt.getTime() - now) / 1000) };
  }
}
