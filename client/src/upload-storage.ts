import type { Conversation, PictureFile } from './types.js';

/** A picture that waits for its upload. */
export type StoredUpload = {
  /** The `Idempotency-Key`: the same over all tries, also those after a reload. */
  readonly key: string;
  readonly file: PictureFile;
  readonly conversation: Conversation;
  /** When it was added, in milliseconds since 1970. */
  readonly addedAt: number;
};

/** A place that keeps the pictures of an {@link UploadQueue}. */
export interface UploadStorage {
  /** Resolves when the picture is kept. */
  put(upload: StoredUpload): Promise<void>;
  /** Does nothing where there is no such picture. */
  delete(key: string): Promise<void>;
  /** All pictures, in any order. */
  all(): Promise<StoredUpload[]>;
}

/** Keeps pictures as long as the page lives. */
export function memoryStorage(): UploadStorage {
  const uploads = new Map<string, StoredUpload>();
  return {
    put: (upload) => Promise.resolve(void uploads.set(upload.key, upload)),
    delete: (key) => Promise.resolve(void uploads.delete(key)),
    all: () => Promise.resolve([...uploads.values()]),
  };
}
