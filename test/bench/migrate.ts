/*
 * npm run bench:migrate: the import of a folder of old pictures into the S3 server of S3_ENDPOINT, beside a plain parallel copy
 * of the same files by the SDK, interleaved in one run. Each import begins with an empty database and an empty bucket.
 *
 *   MIGRATE_FILES   files (400)           MIGRATE_SIZES    pixels of the photographs, in equal shares
 *   MIGRATE_ROUNDS  rounds (3)            MIGRATE_PROFILE  folder for CPU profiles of the imports; they cost time
 *
 * npm run bench:migrate -- --small: the memory of an import of MIGRATE_SMALL (100000) small files, and how fast a second run
 * skips them. Into the S3 server of S3_ENDPOINT when it is set, else to the local disk.
 */
import {
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import pLimit from 'p-limit';
import sharp from 'sharp';
import type { DataSource } from 'typeorm';
import { decodingProcesses } from '../support/decoding-processes.js';
import { s3Environment } from '../support/s3-environment.js';
import { Bench, median, photograph, withDatabase } from './service-under-test.js';

const FILES = Number(process.env.MIGRATE_FILES ?? 400);
const ROUNDS = Number(process.env.MIGRATE_ROUNDS ?? 3);
const SMALL_FILES = Number(process.env.MIGRATE_SMALL ?? 100_000);
const SIZES = (process.env.MIGRATE_SIZES ?? '1278x720,1600x1200,2048x1536,4000x3000').split(',');
const PROFILE = process.env.MIGRATE_PROFILE;

/** Files at the same time, of the copy and of the imports. */
const CONCURRENCY = 8;

const QUALITY = 85;

/** Conversations that the pictures are spread over. */
const APPOINTMENTS = 50;

const SAMPLE_MS = 1000;
const DELETE_AT_ONCE = 1000;

/** The bars: the rate of an import as a share of the copy's, files that are skipped per second, growth of memory. */
const BARS = { kept: 0.6, cleaned: 0.35, skippedPerSecond: 5000 };

type Import = {
  /** Seconds of the whole process. */
  readonly seconds: number;
  /** Share of the machine's processor time that nobody used. */
  readonly idle: number;
  /** Seconds that the command prints: without its start. */
  readonly ownSeconds: number;
  readonly memory: readonly Sample[];
};

/** Resident memory in MiB. */
type Sample = { readonly command: number; readonly decoding: number };

/** A bucket of its own, which is empty before and after. */
class BenchBucket {
  private readonly client: S3Client;

  private constructor(readonly environment: NodeJS.ProcessEnv & { readonly DO_SPACES_BUCKET: string }) {
    this.client = new S3Client({
      region: environment.DO_SPACES_REGION ?? '',
      endpoint: environment.DO_SPACES_ENDPOINT ?? '',
      credentials: {
        accessKeyId: environment.DO_SPACES_KEY ?? '',
        secretAccessKey: environment.DO_SPACES_SECRET ?? '',
      },
      forcePathStyle: true,
    });
  }

  /** @returns `undefined` without S3_ENDPOINT */
  static async open(): Promise<BenchBucket | undefined> {
    const s3 = s3Environment();
    if (!s3) return undefined;
    const name = `${s3.DO_SPACES_BUCKET ?? 'bucket'}-bench-migrate`;
    const bucket = new BenchBucket({
      ...s3,
      DO_SPACES_BUCKET: name,
      DO_SPACES_URL: `${s3.DO_SPACES_ENDPOINT ?? ''}/${name}`,
    });
    await bucket.client.send(new CreateBucketCommand({ Bucket: name })).catch((error: unknown) => {
      // It is there after a run that was cut.
      if (!(error instanceof S3ServiceException) || !error.name.startsWith('BucketAlready')) throw error;
    });
    await bucket.empty();
    return bucket;
  }

  /** Copies files as a script with the SDK would do it. */
  async copy(
    folder: string,
    paths: readonly string[],
    prefix: string,
  ): Promise<Pick<Import, 'seconds' | 'idle'>> {
    const began = performance.now();
    const idle = idleShare();
    await pLimit(CONCURRENCY).map(paths, async (path) =>
      this.client.send(
        new PutObjectCommand({
          Bucket: this.name,
          Key: `${prefix}/${path}`,
          Body: await readFile(join(folder, path)),
          ContentType: 'image/jpeg',
        }),
      ),
    );
    return { seconds: secondsSince(began), idle: idle() };
  }

  async empty(): Promise<number> {
    for (let deleted = 0; ;) {
      const { Contents = [] } = await this.client.send(
        new ListObjectsV2Command({ Bucket: this.name, MaxKeys: DELETE_AT_ONCE }),
      );
      if (Contents.length === 0) return deleted;
      const { Errors = [] } = await this.client.send(
        new DeleteObjectsCommand({
          Bucket: this.name,
          Delete: { Objects: Contents.map(({ Key }) => ({ Key })) },
        }),
      );
      if (Errors[0]) throw new Error(`An object was not deleted: ${Errors[0].Code ?? ''}.`);
      deleted += Contents.length;
    }
  }

  async remove(): Promise<void> {
    await this.empty();
    await this.client.send(new DeleteBucketCommand({ Bucket: this.name }));
    this.client.destroy();
  }

  private get name(): string {
    return this.environment.DO_SPACES_BUCKET;
  }
}

/** A folder of old pictures, made of a few, with different bytes by a counter in a comment. */
class OldFolder {
  readonly paths: string[] = [];
  bytes = 0;

  constructor(readonly root: string) {}

  async fill(pictures: readonly Buffer[], files: number): Promise<void> {
    for (let appointment = 1; appointment <= APPOINTMENTS; appointment += 1)
      await mkdir(join(this.root, `chat_images/appointment_${appointment}`), { recursive: true });
    const limit = pLimit(64);
    await limit.map(
      Array.from({ length: files }, (_, index) => index),
      async (index) => {
        const picture = pictures[index % pictures.length];
        if (!picture) throw new Error('There is no picture.');
        const name = `${1_700_000_000 + index}_${String(index).padStart(10, '0')}.jpg`;
        const path = `chat_images/appointment_${(index % APPOINTMENTS) + 1}/${name}`;
        const comment = Buffer.from(String(index).padEnd(20));
        const head = Buffer.from([0xff, 0xfe, 0, comment.length + 2]);
        const all = Buffer.concat([picture.subarray(0, 2), head, comment, picture.subarray(2)]);
        await writeFile(join(this.root, path), all);
        this.paths.push(path);
        this.bytes += all.length;
      },
    );
  }

  get mean(): string {
    return `${this.paths.length} files, ${Math.round(this.bytes / this.paths.length / 100) / 10} kB in the mean`;
  }
}

/** Runs the command as an operator does, on a database. */
async function runImport(
  bench: Bench,
  database: string,
  folder: OldFolder,
  options: readonly string[],
): Promise<Import> {
  const report = `${folder.root}.ndjson`;
  const began = performance.now();
  const idle = idleShare();
  const child = spawn(
    process.execPath,
    [
      ...(PROFILE === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${PROFILE}`]),
      'dist/commands/migrate-images.js',
      ...['--from', folder.root, '--default-uploader', 'patient', '--report', report],
      ...['--concurrency', String(CONCURRENCY), ...options],
    ],
    {
      env: { ...bench.environment, PATH: process.env.PATH, DATABASE_URL: database },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const ended = new AbortController();
  const sampled = sample(child.pid ?? NaN, ended.signal);
  const [code] = (await once(child, 'close')) as [number | null];
  const [seconds, idleOfRun] = [secondsSince(began), idle()];
  ended.abort();
  const ownSeconds = Number(/: ([\d.]+) s\n/.exec(output)?.[1]);
  if (code !== 0 || Number.isNaN(ownSeconds)) throw new Error(`The import has failed:\n${output}`);
  await rm(report);
  const [stored] = await withDatabase(database, (source) =>
    source.query<{ count: number }[]>(`SELECT count(*) AS count FROM chat_images WHERE state = 'stored'`),
  );
  if (stored?.count !== folder.paths.length) throw new Error(`${stored?.count ?? 0} pictures are stored.`);
  return { seconds, idle: idleOfRun, ownSeconds, memory: await sampled };
}

async function sample(pid: number, signal: AbortSignal): Promise<readonly Sample[]> {
  const samples: Sample[] = [];
  while (!signal.aborted) {
    await setTimeout(SAMPLE_MS, undefined, { signal }).catch(() => undefined);
    const decoding = await Promise.all(decodingProcesses(pid).map(residentMiB));
    samples.push({
      command: await residentMiB(pid),
      decoding: decoding.reduce((sum, memory) => sum + memory, 0),
    });
  }
  // Before the first picture is decoded, the command starts and lists the files. An ended process has no memory.
  return samples.filter(({ command, decoding }) => command > 0 && decoding > 0);
}

/** @returns a function that tells the share of the processors' time since then that was idle */
function idleShare(): () => number {
  const times = (): { idle: number; all: number } => {
    const sums = cpus().map(({ times: of }) => ({
      idle: of.idle,
      all: of.user + of.nice + of.sys + of.irq + of.idle,
    }));
    return {
      idle: sums.reduce((sum, { idle }) => sum + idle, 0),
      all: sums.reduce((sum, { all }) => sum + all, 0),
    };
  };
  const before = times();
  return () => {
    const after = times();
    return (after.idle - before.idle) / (after.all - before.all);
  };
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1024;
}

/** Adds a patient, a doctor and the appointments of the folder. */
async function addAppointments(database: DataSource): Promise<void> {
  await database.query('INSERT INTO users (id) VALUES (1), (2)');
  await database.query(
    'INSERT INTO appointments (id, patient_id, doctor_id) SELECT n, 1, 2 FROM generate_series(1, $1::int) n',
    [APPOINTMENTS],
  );
}

async function compareWithCopy(bench: Bench, bucket: BenchBucket, folder: OldFolder): Promise<void> {
  const photos = await Promise.all(
    SIZES.map((size) => {
      const [width = NaN, height = NaN] = size.split('x').map(Number);
      return photograph(width, height, QUALITY);
    }),
  );
  await folder.fill(photos, FILES);
  const sizes = photos.map((photo, index) => `${SIZES[index] ?? ''} (${Math.round(photo.length / 1000)} kB)`);
  console.log(
    `${folder.mean}: ${sizes.join(', ')}; medians of ${ROUNDS} rounds, ${CONCURRENCY} files at once`,
  );
  const copies: Pick<Import, 'seconds' | 'idle'>[] = [];
  const imports = { kept: [] as Import[], cleaned: [] as Import[] };
  for (let round = 1; round <= ROUNDS; round += 1) {
    copies.push(await bucket.copy(folder.root, folder.paths, `plain-${round}`));
    await bucket.empty();
    for (const kind of ['kept', 'cleaned'] as const) {
      const database = await bench.addDatabase(`${kind}_${round}`, addAppointments);
      const options = kind === 'kept' ? ['--keep-bytes'] : [];
      imports[kind].push(await runImport(bench, database, folder, options));
      const objects = await bucket.empty();
      if (objects !== FILES) throw new Error(`The bucket had ${objects} objects.`);
    }
  }
  const idle = (all: readonly Pick<Import, 'idle'>[]): number => median(all.map((run) => run.idle));
  const whole = (all: readonly Pick<Import, 'seconds'>[]): number =>
    median(all.map(({ seconds }) => seconds));
  const own = (all: readonly Import[]): number => median(all.map(({ ownSeconds }) => ownSeconds));
  const copy = whole(copies);
  const row = (
    seconds: number,
    runs: readonly Pick<Import, 'idle'>[],
    bar?: number,
  ): Record<string, string> => ({
    seconds: seconds.toFixed(1),
    'processors idle': percent(idle(runs)),
    'files/s': (FILES / seconds).toFixed(1),
    'MB/s': (folder.bytes / 1e6 / seconds).toFixed(1),
    'of the copy': percent(copy / seconds),
    bar: bar === undefined ? '' : percent(bar),
    '': bar === undefined ? '' : verdict(copy / seconds >= bar),
  });
  console.table({
    'plain copy by the SDK': row(copy, copies),
    'import, bytes kept, whole process': row(whole(imports.kept), imports.kept, BARS.kept),
    'import, bytes kept, its own time': row(own(imports.kept), imports.kept, BARS.kept),
    'import, cleaned, whole process': row(whole(imports.cleaned), imports.cleaned, BARS.cleaned),
    'import, cleaned, its own time': row(own(imports.cleaned), imports.cleaned, BARS.cleaned),
  });
  console.log('The import decodes each picture and reads each object back; the copy does neither.');
}

async function measureSmall(bench: Bench, folder: OldFolder): Promise<void> {
  const tiny = await Promise.all(
    ['bisque', 'teal', 'plum'].map((background) =>
      sharp({ create: { width: 8, height: 8, channels: 3, background } })
        .jpeg()
        .toBuffer(),
    ),
  );
  await folder.fill(tiny, SMALL_FILES);
  console.log(`${folder.mean}; cleaned, ${CONCURRENCY} files at once; storage: ${bench.storage}`);
  const database = await bench.addDatabase('small', addAppointments);
  const first = await runImport(bench, database, folder, []);
  const { memory } = first;
  const quarter = Math.max(1, Math.floor(memory.length / 4));
  const memoryRow = (of: (sample: Sample) => number): Record<string, string> => {
    const all = memory.map(of);
    const [early, late] = [mean(all.slice(0, quarter)), mean(all.slice(-quarter))];
    return {
      'first quarter': early.toFixed(0),
      'last quarter': late.toFixed(0),
      'last of first': (late / early).toFixed(2),
      maximum: Math.max(...all).toFixed(0),
    };
  };
  console.log(`Resident memory in MiB while pictures are decoded, ${memory.length} samples:`);
  console.table({
    'the command': memoryRow(({ command }) => command),
    'its decoding processes': memoryRow(({ decoding }) => decoding),
    together: memoryRow(({ command, decoding }) => command + decoding),
  });
  const second = await runImport(bench, database, folder, []);
  const rate = (seconds: number): Record<string, string> => ({
    seconds: seconds.toFixed(1),
    'files/s': (SMALL_FILES / seconds).toFixed(0),
  });
  const skipped = (seconds: number): Record<string, string> => ({
    ...rate(seconds),
    bar: String(BARS.skippedPerSecond),
    '': verdict(SMALL_FILES / seconds > BARS.skippedPerSecond),
  });
  console.table({
    'first run, whole process': rate(first.seconds),
    'first run, its own time': rate(first.ownSeconds),
    'second run, all done before, whole process': skipped(second.seconds),
    'second run, all done before, its own time': skipped(second.ownSeconds),
  });
}

const secondsSince = (began: number): number => (performance.now() - began) / 1000;
const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
const percent = (share: number): string => `${Math.round(share * 100)} %`;
const verdict = (reached: boolean): string => (reached ? 'reached' : 'missed');

// On Node 20 the AWS SDK prints seven lines otherwise.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
const small = process.argv.includes('--small');
const bucket = await BenchBucket.open();
if (!bucket && !small) throw new Error('S3_ENDPOINT is not set: scripts/rgw-up starts an S3 server.');
const root = await mkdtemp(join(tmpdir(), 'chat-image-bench-old-'));
const bench = await Bench.open({ durable: true, environment: bucket?.environment ?? {} });
try {
  console.log(`Node ${process.version}, ${availableParallelism()} processors`);
  if (small) await measureSmall(bench, new OldFolder(root));
  else if (bucket) await compareWithCopy(bench, bucket, new OldFolder(root));
} finally {
  await bench.close();
  await rm(root, { recursive: true });
  await bucket?.remove();
}
process.exit(0);
