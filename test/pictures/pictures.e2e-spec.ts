import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { Chromium, hasChromium } from '../support/chromium.js';
import { mutated, type NamedPicture, originals } from './corpus.js';
import { Differential, type Finding } from './differential.js';
import { mutantsOf } from './mutants.js';
import { Product } from './product.js';

/*
 * What decoders show of a picture sent, they show of the picture stored, and personal data are gone.
 *   npm run test:pictures      all mutants, with counts and findings; otherwise one in 128
 *   PICTURES_SHARE=8           one mutant in 8
 *   PICTURES_SEED=7            other mutants than without it
 *   PICTURES_DIR=folder        writes examples of what is found
 */
const isWhole = process.env.PICTURES === 'all';
const SHARE = Number(process.env.PICTURES_SHARE ?? (isWhole ? 1 : 128));
const SEED = Number(process.env.PICTURES_SEED ?? 0);
const LIMIT_MS = isWhole ? 4 * 60 * 60_000 : 10 * 60_000;

function* chosenMutants(pictures: readonly NamedPicture[]): Generator<NamedPicture> {
  let count = SEED;
  for (const picture of pictures) {
    for (const mutant of mutantsOf(picture)) {
      if (count % SHARE === 0) yield mutant;
      count += 1;
    }
  }
}

const unexplained = (findings: readonly Finding[]): object[] =>
  findings
    .filter(({ because }) => because === undefined)
    .map(({ kind, count, examples }) => ({ kind, count, examples: examples.map(({ name }) => name) }));

function print(differential: Differential): void {
  const lines = [JSON.stringify(differential.counts)];
  for (const finding of differential.findings) {
    lines.push(`${finding.count} ${finding.kind}`, `    ${finding.because ?? 'NOT EXPLAINED'}`);
    for (const { name } of finding.examples) lines.push(`    - ${name}`);
  }
  process.stderr.write(`${lines.join('\n')}\n`);
}

function keep(findings: readonly Finding[], folder: string): void {
  for (const finding of findings.filter(({ because }) => because === undefined)) {
    const place = join(folder, finding.kind.replaceAll(/\W+/g, '-'));
    mkdirSync(place, { recursive: true });
    for (const [index, { name, bytes }] of finding.examples.entries())
      writeFileSync(join(place, `${index} ${name.replaceAll('/', ' ').slice(0, 150)}`), bytes);
  }
}

describe(`a picture stored, beside the picture sent`, () => {
  let product: Product;
  let chromium: Chromium | undefined;
  let pictures: readonly NamedPicture[];

  beforeAll(async () => {
    sharp.cache(false);
    sharp.concurrency(1);
    pictures = await originals();
    product = await Product.start();
    chromium = hasChromium() ? await Chromium.start() : undefined;
  });

  afterAll(async () => {
    await chromium?.stop();
    await product.stop();
  });

  const compared = async (some: Iterable<NamedPicture>): Promise<Differential> => {
    const differential = new Differential((bytes, index) => product.prepare(bytes, index), chromium);
    await differential.compare(some);
    if (isWhole) print(differential);
    if (process.env.PICTURES_DIR) keep(differential.findings, process.env.PICTURES_DIR);
    return differential;
  };

  it('is found when it is shown otherwise, or holds personal data', async () => {
    const picture = pictures.find(({ name }) => name === 'with metadata.png');
    const other = await sharp({ create: { width: 24, height: 16, channels: 3, background: 'red' } })
      .png()
      .toBuffer();
    if (!picture) throw new Error('There is no such picture.');
    const kindsOf = async (stored: Buffer): Promise<string[]> => {
      const differential = new Differential(() => Promise.resolve({ stored }), chromium);
      await differential.compare([picture]);
      return differential.findings.map(({ kind }) => kind);
    };
    expect(await kindsOf(picture.bytes)).toEqual(['png: personal data are stored']);
    expect(await kindsOf(other.subarray(0, -30))).toContain(
      'png: libvips does not show the stored picture whole',
    );
    expect(await kindsOf(other)).toEqual([
      'png: libvips shows another picture: orientation, pixels',
      ...(chromium ? ['png: Chromium shows other frames'] : []),
    ]);
  });

  it(
    'is shown alike by libvips and Chromium, without personal data',
    async () => {
      expect(unexplained((await compared(pictures)).findings)).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'is shown alike by libvips and Chromium when its parts are left out, doubled, moved or changed',
    async () => {
      expect(unexplained((await compared(chosenMutants(mutated(pictures)))).findings)).toEqual([]);
    },
    LIMIT_MS,
  );
});
