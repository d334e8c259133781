import { fileName } from './upload-form.js';
import type { StoredUpload, UploadStorage } from './upload-storage.js';

const STORE = 'uploads';

/** A picture as the database has it. Its bytes: a file on a phone may be gone later, and some browsers lose blobs. */
type Row = Omit<StoredUpload, 'file'> & {
  readonly name: string;
  readonly type: string;
  readonly bytes: ArrayBuffer;
};

/**
 * Keeps pictures in the browser over reloads, unencrypted, until they are uploaded.
 *
 * @param name of the database: one for each user of the browser, so that nobody sends another's pictures
 */
export function indexedDbStorage(name: string): UploadStorage {
  return {
    async put({ file, ...upload }) {
      if (!(file instanceof Blob)) throw new TypeError('IndexedDB keeps a Blob or a File only.');
      const bytes = await file.arrayBuffer();
      const row: Row = { ...upload, name: fileName(file), type: file.type, bytes };
      await run(name, 'readwrite', (store) => store.put(row));
    },
    async delete(key) {
      await run(name, 'readwrite', (store) => store.delete(key));
    },
    async all() {
      const rows = await run(name, 'readonly', (store) => store.getAll() as IDBRequest<Row[]>);
      return rows.map(({ name: fileName, type, bytes, ...upload }) => ({
        ...upload,
        file: new File([bytes], fileName, { type }),
      }));
    },
  };
}

/** Opens the database for one operation: an open one would block its deletion, and the page's way into the back/forward cache. */
async function run<Result>(
  name: string,
  mode: IDBTransactionMode,
  operation: (store: IDBObjectStore) => IDBRequest<Result>,
): Promise<Result> {
  const database = await open(name);
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = operation(transaction.objectStore(STORE));
      // The data is kept when the transaction is complete, not when the request is done.
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () =>
        reject(transaction.error ?? new Error('The database has refused the picture.'));
    });
  } finally {
    database.close();
  }
}

function open(name: string): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: 'key' });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error('The database could not be opened.'));
  });
}
