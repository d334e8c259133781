import { Inject, Injectable, Logger } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { DataSource, type EntityManager, Repository } from 'typeorm';
import type { AuthenticatedUser } from '../auth/jwt.strategy.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import { sqlState } from '../database/database-failure.js';
import { ChatImageAccess } from './chat-image-access.entity.js';
import { appointmentFolder, newFilename } from './chat-image-path.js';
import { ChatImage } from './chat-image.entity.js';
import { type InspectedImage, inspectImage } from './image-inspector.js';
import { type SignedUrl, StorageProvider } from './storage/storage-provider.js';
import type { UploadForm } from './upload-form.js';

const UNIQUE_VIOLATION = '23505';

/** How often a new file name is drawn when it is taken. At 62^10 names a second, once is already rare. */
const FILENAME_ATTEMPTS = 3;

/** The upload path and the signing path. Who may take them has been decided by the guard before. */
@Injectable()
export class ChatImagesService {
  private readonly logger = new Logger(ChatImagesService.name);

  constructor(
    @InjectRepository(ChatImage) private readonly images: Repository<ChatImage>,
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * Stores an uploaded picture: its row is committed as pending, the object is written, and the row is committed as
   * stored together with the audit row of the first URL. Readers see the image from then on.
   *
   * @throws AppError INVALID_IMAGE when the bytes are no acceptable picture
   */
  async upload(
    user: AuthenticatedUser,
    form: UploadForm,
  ): Promise<{ image: ChatImage; signedUrl: SignedUrl }> {
    const inspected = await inspectImage(form.bytes);
    const image = await this.insertPending(user, form, inspected);
    try {
      await this.storage.put(image.filePath, form.bytes, { contentType: image.mimeType });
    } catch (error) {
      await this.discard(image);
      throw error;
    }
    await this.dataSource.transaction(async (manager) => {
      await manager.update(ChatImage, { id: image.id }, { state: 'stored' });
      await this.recordAccess(manager, user, image);
    });
    return { image, signedUrl: await this.sign(image) };
  }

  /** Hands out a URL of an image. Its audit row is committed before the URL exists; without the row there is no URL. */
  async signedUrl(user: AuthenticatedUser, image: ChatImage): Promise<SignedUrl> {
    await this.recordAccess(this.dataSource.manager, user, image);
    return this.sign(image);
  }

  private sign(image: ChatImage): Promise<SignedUrl> {
    return this.storage.signedUrl(image.filePath, this.settings.signedUrlExpiresSeconds, new Date());
  }

  private async recordAccess(
    manager: EntityManager,
    user: AuthenticatedUser,
    image: ChatImage,
  ): Promise<void> {
    await manager.insert(ChatImageAccess, { chatImageId: image.id, accessedBy: user.id });
  }

  private async insertPending(
    user: AuthenticatedUser,
    form: UploadForm,
    inspected: InspectedImage,
  ): Promise<ChatImage> {
    for (let attempt = 1; ; attempt += 1) {
      const filename = newFilename(new Date(), inspected.extension);
      const image = this.images.create({
        appointmentId: form.appointmentId,
        filePath: `${appointmentFolder(form.appointmentId)}/${filename}`,
        filename,
        uploadedBy: user.id,
        size: form.bytes.length,
        mimeType: inspected.mimeType,
        originalName: form.name,
        width: inspected.width,
        height: inspected.height,
        state: 'pending',
      });
      try {
        await this.images.insert(image);
        return image;
      } catch (error) {
        if (sqlState(error) !== UNIQUE_VIOLATION || attempt === FILENAME_ATTEMPTS) throw error;
      }
    }
  }

  /** Takes back what an upload has left that could not be stored. What can't be taken back stays pending, unseen. */
  private async discard(image: ChatImage): Promise<void> {
    try {
      await this.storage.delete(image.filePath);
      await this.images.delete({ id: image.id });
    } catch (error) {
      this.logger.warn(
        `image ${image.id} stays pending: ${error instanceof Error ? error.name : 'unknown error'}`,
      );
    }
  }
}
