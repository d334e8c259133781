import { loadSourceBucketSettings, type Settings } from '../config/settings.js';
import { BucketSource } from './bucket-source.js';
import { FolderSource } from './folder-source.js';
import { type ImportSource, SourceError } from './import-source.js';

const BUCKET_URL = /^s3:\/\/(?<bucket>[A-Za-z0-9][A-Za-z0-9.-]+)(?:\/(?<prefix>.*))?$/s;

/** A prefix of keys, without the slash at its end. */
const PREFIX = /^\w[\w./-]{0,200}(?<!\/)$/;

type SourceOptions = {
  /** A folder, or `s3://bucket/prefix`. */
  readonly from: string;
  /** For this service's own bucket: where the originals are kept. */
  readonly keepOriginalUnder?: string | undefined;
};

/**
 * Opens the source that an operator names.
 *
 * @throws SourceError, SettingsError
 */
export async function openSource(
  { from, keepOriginalUnder }: SourceOptions,
  settings: Settings,
  environment: NodeJS.ProcessEnv,
): Promise<ImportSource> {
  if (
    keepOriginalUnder !== undefined &&
    (!PREFIX.test(keepOriginalUnder) || /(^|\/)(chat_images|\.*)(\/|$)/.test(keepOriginalUnder))
  )
    throw new SourceError('--keep-original-under must be a prefix beside chat_images/, such as originals.');
  const { bucket, prefix = '' } = BUCKET_URL.exec(from)?.groups ?? {};
  const source =
    bucket === undefined
      ? await FolderSource.of(from)
      : new BucketSource(
          bucket,
          prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`,
          loadSourceBucketSettings(environment),
          settings.storage.driver === 's3' ? settings.storage : undefined,
          keepOriginalUnder,
        );
  await source.open();
  return source;
}

/**
 * Cleaning in place loses the original bytes where nothing keeps them.
 *
 * @throws SourceError
 */
export function refuseLoss(
  source: ImportSource,
  keepOriginalUnder: string | undefined,
  keepBytes: boolean,
): void {
  if (!source.isTarget || keepBytes || keepOriginalUnder !== undefined) return;
  if (source instanceof BucketSource && source.keepsVersions) return;
  throw new SourceError(
    'The pictures would be rewritten in place, and the bucket keeps no versions: add --keep-original-under originals, switch versioning on, or add --keep-bytes.',
  );
}
