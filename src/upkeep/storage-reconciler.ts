import { Inject, Injectable } from '@nestjs/common';
import { createHash } from 'node:crypto';
import { DataSource } from 'typeorm';
import { SETTINGS, type Settings } from '../config/settings.js';
import { STORAGE_FOLDER } from '../chat-images/entities/chat-image-path.js';
import { ChatImage } from '../chat-images/entities/chat-image.entity.js';
import { ObjectNotFoundError } from '../storage/storage-errors.js';
import { isStorageKey } from '../storage/storage-key.js';
import { type ListedObject, StorageProvider } from '../storage/storage-provider.js';

/** Objects that are compared in one statement. */
const PAGE = 1000;

/** How many of each kind are named. */
const SHOWN = 50;

/** All keys of the folder are between these two, in the order of their bytes. */
const FIRST_KEY = `${STORAGE_FOLDER}/`;
const AFTER_LAST_KEY = `${STORAGE_FOLDER}0`;

/** The form of a key that no row names. */
export type UnknownKind =
  /** A picture's: of this service, whose row was lost, or of the system before. */
  | 'picture'
  /** Another name in the folder of a conversation. */
  | 'other name'
  /** Anything else below the pictures' folder. */
  | 'other folder';

export type UnknownObject = ListedObject & { readonly kind: UnknownKind };

/** How many there are, and the first of them. */
export type Found<T> = { readonly count: number; readonly first: readonly T[] };

/** A stored image whose object is not there, or has another size. Nobody can mend that here. */
export type DamagedImage = { readonly id: number; readonly filePath: string; readonly found: string };

/** What a comparison of the storage with the rows has found. */
export type Comparison = {
  readonly objects: number;
  readonly images: number;
  readonly missing: Found<DamagedImage>;
  readonly unknown: Found<UnknownObject>;
  readonly unknownByKind: Readonly<Record<UnknownKind, number>>;
};

type ComparedPage = {
  readonly objects: number;
  readonly images: number;
  readonly missing: readonly DamagedImage[];
  readonly unknown: readonly UnknownObject[];
};

type CompareOptions = {
  /** Told how many objects have been compared, and about how many there will be. */
  readonly progress?: (done: number, about: number) => void;
  readonly signal?: AbortSignal;
};

/** Compares the whole storage with the rows, in both directions. It only reports; removing is a person's decision. */
@Injectable()
export class StorageReconciler {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  async compare({ progress = () => undefined, signal }: CompareOptions = {}): Promise<Comparison> {
    const [about] = await this.dataSource.query<{ images: number }[]>(
      `SELECT count(*) AS images FROM chat_images WHERE state = 'stored'`,
    );
    const missing = { count: 0, first: [] as DamagedImage[] };
    const unknown = { count: 0, first: [] as UnknownObject[] };
    const unknownByKind: Record<UnknownKind, number> = { picture: 0, 'other name': 0, 'other folder': 0 };
    let objects = 0;
    let images = 0;
    for await (const page of this.pages(signal)) {
      objects += page.objects;
      images += page.images;
      add(missing, page.missing);
      add(unknown, page.unknown);
      for (const { kind } of page.unknown) unknownByKind[kind] += 1;
      progress(objects, about?.images ?? 0);
    }
    return { objects, images, missing, unknown, unknownByKind };
  }

  /**
   * @param olderThanSeconds how long ago the object was last written, at least, by the database's clock
   * @param limit how many at most
   * @returns objects that no row names, of the kinds named
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
   * Removes objects for good. Whoever calls this has asked a person.
   *
   * @param onRemoved told of each, as a later one may fail
   * @returns the keys that stay, because a row has come to name them since, or because they are none of this service's form
   */
  async removeUnknown(
    objects: readonly UnknownObject[],
    onRemoved: (key: string) => void,
  ): Promise<readonly string[]> {
    const kept: string[] = [];
    for (const { key } of objects) {
      const named = await this.dataSource.query<unknown[]>(
        'SELECT FROM chat_images WHERE file_path COLLATE "C" = $1',
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
   * Makes uploads stored that are pending and whose object is there, whole: in a database that was restored to a moment
   * within an upload, this is the picture that it became later.
   *
   * @returns how many pictures it has saved, and how many uploads are still pending
   */
  async completePending(): Promise<{ readonly completed: number; readonly pending: number }> {
    const uploads = await this.dataSource.manager.findBy(ChatImage, { state: 'pending' });
    let completed = 0;
    for (const { id, filePath, sha256Stored } of uploads) {
      if (sha256Stored === null || (await this.digestOf(filePath)) !== sha256Stored) continue;
      const { affected } = await this.dataSource.manager.update(
        ChatImage,
        { id, state: 'pending' },
        { state: 'stored' },
      );
      completed += affected ?? 0;
    }
    return { completed, pending: uploads.length - completed };
  }

  private async digestOf(key: string): Promise<string | undefined> {
    try {
      const digest = createHash('sha256');
      for await (const chunk of await this.storage.get(key)) digest.update(chunk as Buffer);
      return digest.digest('hex');
    } catch (error) {
      if (error instanceof ObjectNotFoundError) return undefined;
      throw error;
    }
  }

  /**
   * Goes through storage and rows side by side, both in the order of their keys, a page of objects and the rows of that
   * stretch at a time: no list of all is kept anywhere.
   */
  private async *pages(signal?: AbortSignal): AsyncGenerator<ComparedPage> {
    // Rows are committed before their objects are written. An image of a time before the list began is complete in it.
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

  /** The time of the database: that of one machine, whichever instance asks. */
  private async now(): Promise<Date> {
    const [row] = await this.dataSource.query<{ now: Date }[]>('SELECT now() AS now');
    if (!row) throw new Error('The database answered without a row.');
    return row.now;
  }

  /** @param after, upTo the stretch of keys that the page is all objects of */
  private async comparePage(
    page: readonly ListedObject[],
    after: string,
    upTo: string,
    start: Date,
  ): Promise<ComparedPage> {
    const [row] = await this.dataSource.query<
      { images: number; missing: DamagedImage[] | null; unknown: string[] | null }[]
    >(
      `WITH listed AS (
         SELECT * FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS listed (key, size, modified)
       ), named AS (
         SELECT id, file_path, size, state, updated_at FROM chat_images
         WHERE file_path COLLATE "C" > $4 AND file_path COLLATE "C" <= $5
       )
       SELECT
         (SELECT count(*) FROM named WHERE state = 'stored') AS images,
         (SELECT json_agg(json_build_object('id', id, 'filePath', file_path,
                    'found', coalesce(listed.size || ' bytes', 'nothing')) ORDER BY id)
          FROM named LEFT JOIN listed ON key = file_path
          WHERE state = 'stored' AND updated_at < $6::timestamptz AND listed.size IS DISTINCT FROM named.size) AS missing,
         (SELECT json_agg(key ORDER BY key) FROM listed
          WHERE modified < $6::timestamptz - make_interval(secs => $7)
            AND NOT EXISTS (SELECT FROM named WHERE file_path = key)
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
      missing: row?.missing ?? [],
      unknown: page
        .filter(({ key }) => unknown.has(key))
        .map((object) => ({ ...object, kind: kindOf(object.key) })),
    };
  }
}

function kindOf(key: string): UnknownKind {
  const [, folder = '', name, ...rest] = key.split('/');
  if (name === undefined || rest.length > 0 || !/^(appointment|text_session)_\d+$/.test(folder))
    return 'other folder';
  return /^\d{9,10}_[A-Za-z0-9]{10}(\.[A-Za-z0-9]{1,5})?$/.test(name) ? 'picture' : 'other name';
}

function add<T>(to: { count: number; first: T[] }, found: readonly T[]): void {
  to.count += found.length;
  to.first.push(...found.slice(0, SHOWN - to.first.length));
}
