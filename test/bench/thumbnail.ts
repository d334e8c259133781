/*
 * npm run bench:thumbnail: processor time of a JPEG in a decoding process: its proof alone, the proof and then
 * the thumbnail, and the proof that makes the thumbnail of the pixels it has decoded. Interleaved, medians of BENCH_ROUNDS (15).
 */
import sharp from 'sharp';
import { inspect } from '../../src/pictures/image-inspector.js';
import { makeThumbnail } from '../../src/pictures/thumbnail.js';
import { median, photograph } from './service-under-test.js';

const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 15);
const WARM_UP_ROUNDS = 3;
const QUALITY = 85;

const WAYS: Readonly<Record<string, (bytes: Buffer) => Promise<unknown>>> = {
  'the proof alone': (bytes) => inspect(bytes, 'jpeg'),
  'the proof, then the thumbnail': async (bytes) => {
    await inspect(bytes, 'jpeg');
    await makeThumbnail(bytes, 'jpeg');
  },
  'the proof with the thumbnail': (bytes) => inspect(bytes, 'jpeg', true),
};

async function cpuMs(work: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

const rows: Record<string, Record<string, string>> = {};
for (const [size, width, height] of [
  ['1 MP', 1278, 720],
  ['12 MP', 4000, 3000],
] as const) {
  const plain = await photograph(width, height, QUALITY);
  const wide = await sharp(plain).withIccProfile('p3').jpeg({ quality: QUALITY }).toBuffer();
  for (const [colours, bytes] of [
    ['sRGB', plain],
    ['Display P3', wide],
  ] as const) {
    const times = new Map(Object.keys(WAYS).map((name) => [name, [] as number[]]));
    for (let round = -WARM_UP_ROUNDS; round < ROUNDS; round += 1)
      for (const [name, way] of Object.entries(WAYS)) {
        const ms = await cpuMs(() => way(bytes));
        if (round >= 0) times.get(name)?.push(ms);
      }
    for (const [name, all] of times)
      (rows[name] ??= {})[`${size}, ${colours}`] = `${median(all).toFixed(1)} ms`;
  }
}
console.log(`Node ${process.version}, ${ROUNDS} rounds`);
console.table(rows);
