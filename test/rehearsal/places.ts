import { execFile } from 'node:child_process';
import {
  chmod,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';
import pLimit from 'p-limit';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { s3Environment } from '../support/s3-environment.js';
import { statusOf, TestBucket } from '../support/test-bucket.js';
import { type Installation, ODD_KINDS, type OddKind, type OldFile, sha256 } from './installation.js';
import { KEEP_ALIVE_MS } from './service.js';

const CONCURRENCY = 8;

/** How an old installation is brought in. */
export type Form =
  | 'a folder to the disk'
  | 'a folder to a bucket'
  | 'a bucket in place, originals kept'
  | 'a bucket in place, as it is';

/** Where the old pictures are, and where the private ones go. */
export type Place = {
  readonly form: Form;
  /** Whether the pictures are rewritten where they are. */
  readonly inPlace: boolean;
  /** The kinds of odd files that can be made here. */
  readonly kinds: readonly OddKind[];
  /** The source in commands, and options of the import. */
  readonly from: string;
  readonly importOptions: readonly string[];
  /** The public address of the old pictures. */
  readonly legacyUrl: string;
  /** The settings of the private storage. */
  readonly environment: NodeJS.ProcessEnv;
  fill(installation: Installation): Promise<void>;
  /** Replaces a file of the source. */
  replace(path: string, bytes: Buffer): Promise<void>;
  /** The bytes in the source; `undefined` where there is no file. */
  read(path: string): Promise<Buffer | undefined>;
  /** Everything in the source, by path, with all that tells whether it was touched. */
  snapshot(): Promise<ReadonlyMap<string, string>>;
  /** The keys of all objects in the private storage. */
  objects(): Promise<readonly string[]>;
  /** The bytes of an object in the private storage. */
  readObject(key: string): Promise<Buffer | undefined>;
  /** The status of a GET without credentials, at the address of a private object. */
  anonymousGet(key: string, appUrl: string): Promise<number>;
  stop(): Promise<void>;
};

/** The forms that can be rehearsed here: with the S3 server of `S3_ENDPOINT`, and without one. */
export function possibleForms(): readonly Form[] {
  if (!s3Environment()) return ['a folder to the disk'];
  // The short form leaves out what the others show, too.
  return process.env.REHEARSAL_FILES === undefined
    ? ['a bucket in place, originals kept']
    : ['a folder to a bucket', 'a bucket in place, originals kept', 'a bucket in place, as it is'];
}

export async function makePlace(form: Form): Promise<Place> {
  if (form === 'a folder to the disk') {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-rehearsal-storage-'));
    return folderPlace(form, {
      environment: { STORAGE_DRIVER: 'local', LOCAL_STORAGE_DIR: folder },
      objects: async () => {
        const objects = join(folder, 'objects');
        const entries = await readdir(objects, { recursive: true, withFileTypes: true }).catch(() => []);
        return entries
          .filter((entry) => entry.isFile())
          .map(({ parentPath, name }) => relative(objects, join(parentPath, name)));
      },
      readObject: (key) => readFile(join(folder, 'objects', key)).catch(() => undefined),
      anonymousGet: (key, appUrl) => statusOf(`${appUrl}/api/local-storage/${key}`),
      stop: () => rm(folder, { recursive: true, force: true }),
    });
  }
  const bucket = await TestBucket.make();
  const target: Target = {
    environment: bucket.environment,
    objects: () => bucket.keys(),
    readObject: (key) => bucket.read(key),
    anonymousGet: (key) => statusOf(bucket.urlOf(key)),
    stop: () => bucket.remove(),
  };
  if (form === 'a folder to a bucket') return folderPlace(form, target);
  return bucketPlace(form, bucket, target);
}

type Target = Pick<Place, 'environment' | 'objects' | 'readObject' | 'anonymousGet' | 'stop'>;

/** A public folder, which a web server shows as the previous backend did. */
async function folderPlace(form: Form, target: Target): Promise<Place> {
  const parent = await mkdtemp(join(tmpdir(), 'chat-image-rehearsal-'));
  const root = join(parent, 'public');
  await mkdir(root);
  const at = (path: string): string => join(root, path);
  const write = async (path: string, bytes: Buffer): Promise<void> => {
    await mkdir(dirname(at(path)), { recursive: true });
    await writeFile(at(path), bytes);
  };
  const read = async (path: string): Promise<Buffer | undefined> =>
    // A decoded path may climb out of the folder.
    relative(root, at(path)).startsWith('..') ? undefined : readFile(at(path)).catch(() => undefined);
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, (request, response) => {
    void read(decodeURI(request.url ?? '').slice(1)).then((bytes) =>
      response.writeHead(bytes ? 200 : 404).end(bytes),
    );
  });
  const port = await freePort();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    ...target,
    form,
    inPlace: false,
    kinds: ODD_KINDS,
    from: root,
    // Small transactions, so that a run can be cut between two of them.
    importOptions: ['--concurrency', '2'],
    legacyUrl: `http://127.0.0.1:${port}`,
    fill: async ({ files, unknown }) => {
      await writeFile(join(parent, 'secret.jpg'), files[0]?.bytes ?? '');
      for (const { path, bytes } of unknown) await write(path, bytes);
      for (const { path, bytes, kind } of files) {
        if (kind === 'symbolic link') {
          await mkdir(dirname(at(path)), { recursive: true });
          await symlink(join(parent, 'secret.jpg'), at(path));
          continue;
        }
        await write(path, bytes);
        if (kind === 'unreadable') await chmod(at(path), 0);
      }
      await promisify(execFile)('mkfifo', [at(PIPE)]);
      await symlink(parent, at(LINKED_FOLDER));
    },
    replace: write,
    read,
    snapshot: async () =>
      new Map([...(await snapshotOf(parent))].map(([path, facts]) => [path.replace(/^public\//, ''), facts])),
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await rm(parent, { recursive: true, force: true });
      await target.stop();
    },
  };
}

/** A named pipe, and a folder that is a symbolic link out of the source. */
export const PIPE = 'chat_images/appointment_201/1700000002_abcdefghij.jpg';
export const LINKED_FOLDER = 'chat_images/appointment_202_old';

/** The public pictures of a bucket, which is the private storage too. */
function bucketPlace(form: Form, bucket: TestBucket, target: Target): Place {
  return {
    ...target,
    form,
    inPlace: true,
    // An object that its owner may not read is hard to make, and a bucket has no symbolic links.
    kinds: ODD_KINDS.filter((kind) => kind !== 'unreadable' && kind !== 'symbolic link'),
    from: `s3://${bucket.name}`,
    importOptions:
      form === 'a bucket in place, as it is' ? ['--keep-bytes'] : ['--keep-original-under', 'originals'],
    legacyUrl: bucket.urlOf(''),
    fill: async ({ files, unknown }) => {
      const limit = pLimit(CONCURRENCY);
      await bucket.put(CLIMBING_KEY, Buffer.from('the bytes of a secret'), 'image/jpeg', false);
      await limit.map(files, (file) => bucket.put(file.path, file.bytes, file.mimeType, true));
      await limit.map(unknown, ({ path, bytes }) =>
        bucket.put(path, bytes, 'text/plain', !path.startsWith('id_documents')),
      );
    },
    replace: (path, bytes) => bucket.put(path, bytes, 'image/jpeg', true),
    read: (path) => bucket.read(path),
    snapshot: () => bucket.snapshot(),
  };
}

/** A key that would climb out of the folder of pictures if it were a path. */
export const CLIMBING_KEY = 'chat_images/appointment_201/../../1700000003_abcdefghij.jpg';

/** Type, rights, time and digest of everything below a folder. */
async function snapshotOf(root: string): Promise<ReadonlyMap<string, string>> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []);
  const limit = pLimit(CONCURRENCY);
  const facts = await limit.map(entries, async (entry): Promise<[string, string]> => {
    const path = join(entry.parentPath, entry.name);
    const { mode, mtimeMs, size } = await lstat(path);
    const rights = (mode & 0o777).toString(8);
    if (entry.isDirectory()) return [relative(root, path), `folder ${rights}`];
    if (entry.isSymbolicLink()) return [relative(root, path), `link to ${await readlink(path)}`];
    if (!entry.isFile()) return [relative(root, path), `other ${rights} ${mtimeMs}`];
    const digest = await readFile(path).then(sha256, () => 'unreadable');
    return [relative(root, path), `file ${rights} ${mtimeMs} ${size} ${digest}`];
  });
  return new Map(facts);
}

/** What the report must say of an odd file. */
export function expectedReason({ kind, conversation }: OldFile): RegExp {
  switch (kind) {
    case 'no appointment':
    case 'no text session':
      return new RegExp(
        `^There is no ${conversation.isTextSession ? 'text session' : 'appointment'} 999\\.$`,
      );
    case 'corrupt':
      return /damaged|truncated|incomplete|not complete|cut/;
    case 'no picture':
      return /HTML|JPEG/;
    case 'zero bytes':
      return /^The file is empty\.$/;
    case 'unreadable':
      return /^It can not be read \(EACCES\)\.$/;
    case 'symbolic link':
      return /^symbolic link$/;
    case 'dots in the path':
      return /^(other file name|folder of no conversation)$/;
    case 'changing':
      return /^It has changed (while it was read|during the import)\.$/;
    case 'same name twice':
      return /^Another image has the name\.$/;
    default:
      return /^$/;
  }
}
