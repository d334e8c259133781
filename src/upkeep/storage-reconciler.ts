import { Inject, Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { isThumbnailKey, STORAGE_FOLDER } from '../chat-images/entities/chat-image-path.js';
import { ChatImage, MAY_HAVE_THUMBNAIL, THUMBNAIL_KEY } from '../chat-images/entities/chat-image.entity.js';
import { isStorageKey } from '../storage/storage-key.js';
import { type ListedObject, StorageProvider } from '../storage/storage-provider.js';

/** Number of objects compared in one statement. */
const PAGE = 1000;

/** Maximum number of listed findings per list. */
const MAX_LISTED = 50;

/** In byte order, all keys of the folder are between these two keys. */
const FIRST_KEY = `${STORAGE_FOLDER}/`;
const AFTER_LAST_KEY = `${STORAGE_FOLDER}0`;

/** The kind of an object without a row, by its key. */
export type UnknownKind =
  /** Named like a picture: of this service, with a lost row, or of the previous system. */
  | 'picture'
  /** Named like a thumbnail of this service. */
  | 'thumbnail'
  /** Another file name in the folder of a conversation. */
  | 'other name'
  /** Any other key in the folder of pictures. */
  | 'other folder';

export type UnknownObject = ListedObject & { readonly kind: UnknownKind };

/** The number of findings, and the first findings. */
export type Found<T> = { readonly count: number; readonly first: readonly T[] };

/**
 * A stored image whose object, or whose thumbnail, is missing or has another size. This service can't repair it. `filePath` is the
 * key of the object.
 */
export type DamagedImage = { readonly id: number; readonly filePath: string; readonly found: string };

/** The result of comparing the storage with the rows. */
export type Comparison = {
  readonly objects: number;
  readonly images: number;
  readonly thumbnails: number;
  readonly missing: Found<DamagedImage>;
  readonly unknown: Found<UnknownObject>;
  readonly unknownByKind: Readonly<Record<UnknownKind, number>>;
};

type ComparedPage = {
  readonly objects: number;
  readonly images: number;
  readonly thumbnails: number;
  readonly missing: readonly DamagedImage[];
  readonly unknown: readonly UnknownObject[];
};

type CompareOptions = {
  /** Called with the number of compared objects and the estimated total. */
  readonly progress?: (done: number, about: number) => void;
  readonly signal?: AbortSignal;
};

/** Compares the whole storage with the rows, in both directions. Only reports: a person decides on deletion. */
@Injectable()
export class StorageReconciler {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  async compare({ progress = () => undefined, signal }: CompareOptions = {}): Promise<Comparison> {
    const [about] = await this.dataSource.query<{ objects: number }[]>(
      `SELECT count(*) + count(thumbnail_size) AS objects FROM chat_images WHERE state = 'stored'`,
    );
    const missing = { count: 0, first: [] as DamagedImage[] };
    const unknown = { count: 0, first: [] as UnknownObject[] };
    const unknownByKind: Record<UnknownKind, number> = {
      picture: 0,
      thumbnail: 0,
      'other name': 0,
      'other folder': 0,
    };
    let objects = 0;
    let images = 0;
    let thumbnails = 0;
    for await (const page of this.pages(signal)) {
      objects += page.objects;
      images += page.images;
      thumbnails += page.thumbnails;
      add(missing, page.missing);
      add(unknown, page.unknown);
      for (const { kind } of page.unknown) unknownByKind[kind] += 1;
      progress(objects, about?.objects ?? 0);
    }
    return { objects, images, thumbnails, missing, unknown, unknownByKind };
  }

  /**
   * @param olderThanSeconds minimum age of the object, by the database's clock
   * @param limit maximum number of objects
   * @returns objects of these kinds without a row
   */
  async findUnknown(
    olderThanSeconds: number,
    limit: number,
    kinds: readonly UnknownKind[],
  ): Promise<readonly UnknownObject[]> {
    const before = (await this.now()).getTime() - olderThanSeconds * 1000;
    const found: UnknownObject[] = [];
    for await (const { unknown } of this.pages()) {
      found.push(
        ...unknown.filter(
          ({ kind, lastModified }) => kinds.includes(kind) && lastModified.getTime() < before,
        ),
      );
      if (found.length >= limit) break;
    }
    return found.slice(0, limit);
  }

  /**
   * Deletes objects permanently. The caller must have asked a person.
   *
   * @param onRemoved called after each deleted object, because a later deletion may fail
   * @returns the keys that were kept: a row refers to the object by now, or the key has not this service's form
   */
  async removeUnknown(
    objects: readonly UnknownObject[],
    onRemoved: (key: string) => void,
  ): Promise<readonly string[]> {
    const kept: string[] = [];
    for (const { key } of objects) {
      const named = await this.dataSource.query<unknown[]>(
        `SELECT FROM chat_images WHERE file_path COLLATE "C" = $1
         UNION ALL SELECT FROM chat_images WHERE ${THUMBNAIL_KEY} COLLATE "C" = $1 AND ${MAY_HAVE_THUMBNAIL}`,
        [key],
      );
      if (named.length > 0 || !isStorageKey(key)) {
        kept.push(key);
        continue;
      }
      await this.storage.delete(key);
      onRemoved(key);
    }
    return kept;
  }

  /**
   * Marks pending uploads as stored when their complete object exists. For a database restored to a time during an upload:
   * the upload was completed after that time.
   *
   * @returns the number of completed uploads and of uploads that are still pending
   */
  async completePending(): Promise<{ readonly completed: number; readonly pending: number }> {
    const uploads = await this.dataSource.manager.findBy(ChatImage, { state: 'pending' });
    let completed = 0;
    for (const { id, filePath, sha256Stored } of uploads) {
      if (sha256Stored === null || (await this.storage.digest(filePath)) !== sha256Stored) continue;
      const { affected } = await this.dataSource.manager.update(
        ChatImage,
        { id, state: 'pending' },
        // A thumbnail may have been written. It is made again when it is asked for.
        { state: 'stored', thumbnailLeaseUntil: () => 'now()' },
      );
      completed += affected ?? 0;
    }
    return { completed, pending: uploads.length - completed };
  }

  /**
   * Reads storage and rows in parallel, in key order. Each step compares one page of objects with the rows of the same key
   * range, so that no complete list is in memory.
   */
  private async *pages(signal?: AbortSignal): AsyncGenerator<ComparedPage> {
    // An image stored before the start of the listing has a row and an object, so both must be found.
    const start = await this.now();
    let after = FIRST_KEY;
    let page: ListedObject[] = [];
    for await (const object of this.storage.list(FIRST_KEY)) {
      page.push(object);
      if (page.length < PAGE) continue;
      signal?.throwIfAborted();
      yield await this.comparePage(page, after, object.key, start);
      after = object.key;
      page = [];
    }
    signal?.throwIfAborted();
    yield await this.comparePage(page, after, AFTER_LAST_KEY, start);
  }

  /** The database's clock, the same for every instance. */
  private async now(): Promise<Date> {
    const [row] = await this.dataSource.query<{ now: Date }[]>('SELECT now() AS now');
    if (!row) throw new Error('The database answered without a row.');
    return row.now;
  }

  /** @param after, upTo the key range of the page, `after` excluded */
  private async comparePage(
    page: readonly ListedObject[],
    after: string,
    upTo: string,
    start: Date,
  ): Promise<ComparedPage> {
    const [row] = await this.dataSource.query<
      { images: number; thumbnails: number; missing: DamagedImage[] | null; unknown: string[] | null }[]
    >(
      `WITH listed AS (
         SELECT * FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS listed (key, size, modified)
       ), named AS (
         SELECT id, file_path AS object_key, size, state = 'stored' AS has_object, updated_at, false AS is_thumbnail
         FROM chat_images WHERE file_path COLLATE "C" > $4 AND file_path COLLATE "C" <= $5
         UNION ALL
         SELECT id, ${THUMBNAIL_KEY}, thumbnail_size, state = 'stored' AND thumbnail_size IS NOT NULL, updated_at, true
         FROM chat_images WHERE ${MAY_HAVE_THUMBNAIL}
           AND ${THUMBNAIL_KEY} COLLATE "C" > $4 AND ${THUMBNAIL_KEY} COLLATE "C" <= $5
       )
       SELECT
         (SELECT count(*) FROM named WHERE has_object AND NOT is_thumbnail) AS images,
         (SELECT count(*) FROM named WHERE has_object AND is_thumbnail) AS thumbnails,
         (SELECT json_agg(json_build_object('id', id, 'filePath', object_key,
                    'found', coalesce(listed.size || ' bytes', 'nothing')) ORDER BY id, is_thumbnail)
          FROM named LEFT JOIN listed ON key = object_key
          WHERE has_object AND updated_at < $6::timestamptz AND listed.size IS DISTINCT FROM named.size) AS missing,
         (SELECT json_agg(key ORDER BY key) FROM listed
          WHERE modified < $6::timestamptz - make_interval(secs => $7)
            AND NOT EXISTS (SELECT FROM named WHERE object_key = key)
            AND NOT EXISTS (SELECT FROM chat_image_tombstones WHERE object_key = key)) AS unknown`,
      [
        page.map(({ key }) => key),
        page.map(({ size }) => size),
        page.map(({ lastModified }) => lastModified),
        after,
        upTo,
        start,
        this.settings.uploads.graceSeconds,
      ],
    );
    const unknown = new Set(row?.unknown ?? []);
    return {
      objects: page.length,
      images: row?.images ?? 0,
      thumbnails: row?.thumbnails ?? 0,
      missing: row?.missing ?? [],
      unknown: page
        .filter(({ key }) => unknown.has(key))
        .map((object) => ({ ...object, kind: kindOf(object.key) })),
    };
  }
}

function kindOf(key: string): UnknownKind {
  if (isThumbnailKey(key)) return 'thumbnail';
  const [, folder = '', name, ...rest] = key.split('/');
  if (name === undefined || rest.length > 0 || !/^(appointment|text_session)_\d+$/.test(folder))
    return 'other folder';
  return /^\d{9,10}_[A-Za-z0-9]{10}(\.[A-Za-z0-9]{1,5})?$/.test(name) ? 'picture' : 'other name';
}

function add<T>(to: { count: number; first: T[] }, found: readonly T[]): void {
  to.count += found.length;
  to.first.push(...found.slice(0, MAX_LISTED - to.first.length));
}
