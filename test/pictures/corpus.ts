import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageFormat } from '../../src/pictures/image-format.js';
import { madePictures } from './made-pictures.js';

export type NamedPicture = {
  readonly name: string;
  readonly bytes: Buffer;
  readonly format: ImageFormat;
};

/** Folders with pictures: the project's own, and those of packages. */
const FOLDERS = [
  'test/images',
  'test/images/corpus',
  'test/images/pngsuite',
  'node_modules/gif-stream/test/images',
  'node_modules/png-stream/test/images',
];

const FORMATS: Readonly<Record<string, ImageFormat>> = {
  jpg: 'jpeg',
  jpeg: 'jpeg',
  png: 'png',
  gif: 'gif',
  webp: 'webp',
};

const named = (name: string, bytes: Buffer): NamedPicture[] => {
  const format = FORMATS[name.slice(name.lastIndexOf('.') + 1)];
  return format ? [{ name, bytes, format }] : [];
};

/** All pictures that are not mutants. */
export async function originals(): Promise<NamedPicture[]> {
  const files = FOLDERS.flatMap((folder) =>
    readdirSync(folder)
      .sort()
      .flatMap((file) => (/\.\w+$/.test(file) ? named(file, readFileSync(join(folder, file))) : [])),
  );
  const made = (await madePictures()).flatMap(({ name, bytes }) => named(name, bytes));
  return [...files, ...made];
}

/** Larger pictures have as many parts, and take longer. */
const MAX_MUTATED_BYTES = 8000;

/** Pictures with the same parts as others that are mutated. */
const ALIKE = [
  /^orientation[- ][1-57-8]/,
  /^(samsung|sony|f0|basn[0246]|tp0)/,
  /^(cmyk-adobe|restart-interval|adobe-rgb|animated-local)/,
  /^(P3|sRGB|one pixel|grey|mozjpeg|with (Adobe|sampled|a table of|a display).*)\.jpeg/,
  /^colour type (0, [248]|2, 16|3, [14]|4, 16|6, 8)/,
  /^with (Adobe|sampled).*\.png/,
  /^animated(, (odd|no)| once| for ever).*\.gif/,
];

/** The pictures of which mutants are made. */
export const mutated = (pictures: readonly NamedPicture[]): NamedPicture[] =>
  pictures.filter(
    ({ name, bytes }) => bytes.length <= MAX_MUTATED_BYTES && !ALIKE.some((alike) => alike.test(name)),
  );
