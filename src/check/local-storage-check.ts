import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { systemCode } from '../errors/system-code.js';
import type { LocalStorageSettings, Settings } from '../config/settings.js';
import { type Finding, ok, warning, wrong } from './finding.js';

/** Checks the folder of the local driver by writing a file. Removes the file and all folders created for it. */
export async function* checkLocalStorage(
  { environment }: Settings,
  { directory }: LocalStorageSettings,
): AsyncGenerator<Finding> {
  yield environment === 'production'
    ? warning(
        'storage driver',
        'STORAGE_DRIVER=local keeps the pictures on this machine only: use a bucket for more than one instance',
      )
    : ok('storage driver', 'STORAGE_DRIVER=local, for development');
  yield await checkFolder(resolve(directory));
}

async function checkFolder(folder: string): Promise<Finding> {
  const name = 'storage folder';
  const file = join(folder, `check-${randomUUID()}.tmp`);
  let createdFolder: string | undefined;
  try {
    createdFolder = await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeFile(file, name, { flag: 'wx', mode: 0o600 });
    return (await readFile(file, 'utf8')) === name
      ? ok(name, 'can be written to and read')
      : wrong(name, 'LOCAL_STORAGE_DIR does not keep what is written to it');
  } catch (error) {
    return wrong(
      name,
      `LOCAL_STORAGE_DIR can not be used (${systemCode(error) ?? 'unknown'}): name a folder that this user may write to`,
    );
  } finally {
    await rm(createdFolder ?? file, { recursive: true, force: true }).catch(() => undefined);
  }
}
