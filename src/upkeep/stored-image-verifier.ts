import { Injectable } from '@nestjs/common';
import pLimit from 'p-limit';
import { DataSource, MoreThan, MoreThanOrEqual } from 'typeorm';
import { thumbnailKey } from '../chat-images/entities/chat-image-path.js';
import { ChatImage } from '../chat-images/entities/chat-image.entity.js';
import { StorageProvider } from '../storage/storage-provider.js';

const PAGE = 500;
const CONCURRENCY = 8;

export type Verdict = 'intact' | 'changed' | 'missing' | 'without digest';

/** `changed`: of another size. A row has no digest of its thumbnail, which can be made again. */
export type ThumbnailVerdict = Exclude<Verdict, 'without digest'>;

export type Verification = {
  readonly counts: Readonly<Record<Verdict, number>>;
  readonly thumbnails: Readonly<Record<ThumbnailVerdict, number>>;
  /** Changed or missing images and thumbnails, by the key of their object. */
  readonly damaged: readonly { readonly id: number; readonly filePath: string; readonly verdict: Verdict }[];
};

/** Reads stored pictures and compares their digests with the digests from the upload. Compares the sizes of thumbnails. */
@Injectable()
export class StoredImageVerifier {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
  ) {}

  /**
   * @param since only images uploaded at or after this time
   * @param progress called with the number of verified images and the total
   * @throws StorageUnavailableError when the storage does not respond: no verdict on the picture
   */
  async verify(
    since: Date | undefined,
    progress: (done: number, total: number) => void = () => undefined,
  ): Promise<Verification> {
    const counts: Record<Verdict, number> = { intact: 0, changed: 0, missing: 0, 'without digest': 0 };
    const thumbnails: Record<ThumbnailVerdict, number> = { intact: 0, changed: 0, missing: 0 };
    const damaged: { id: number; filePath: string; verdict: Verdict }[] = [];
    const where = { state: 'stored' as const, ...(since ? { createdAt: MoreThanOrEqual(since) } : {}) };
    const total = await this.dataSource.manager.countBy(ChatImage, where);
    const limit = pLimit(CONCURRENCY);
    let done = 0;
    for (let lastId = 0; ;) {
      const page = await this.dataSource.manager.find(ChatImage, {
        where: { ...where, id: MoreThan(lastId) },
        order: { id: 'ASC' },
        take: PAGE,
      });
      const last = page.at(-1);
      if (!last) return { counts, thumbnails, damaged };
      lastId = last.id;
      await limit.map(page, async (image) => {
        const verdict = await this.verifyImage(image);
        counts[verdict] += 1;
        if (verdict === 'changed' || verdict === 'missing') {
          damaged.push({ id: image.id, filePath: image.filePath, verdict });
        }
        if (image.thumbnailSize !== null) {
          const key = thumbnailKey(image.filePath, image.mimeType);
          const ofThumbnail = await this.verifyThumbnail(key, image.thumbnailSize);
          thumbnails[ofThumbnail] += 1;
          if (ofThumbnail !== 'intact') damaged.push({ id: image.id, filePath: key, verdict: ofThumbnail });
        }
        done += 1;
        progress(done, total);
      });
    }
  }

  private async verifyImage({ filePath, sha256Stored }: ChatImage): Promise<Verdict> {
    const digest = await this.storage.digest(filePath);
    if (digest === undefined) return 'missing';
    if (sha256Stored === null) return 'without digest';
    return digest === sha256Stored ? 'intact' : 'changed';
  }

  private async verifyThumbnail(key: string, size: number): Promise<ThumbnailVerdict> {
    const object = await this.storage.head(key);
    if (!object) return 'missing';
    return object.size === size ? 'intact' : 'changed';
  }
}
