import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import sharp from 'sharp';
import { DataSource } from 'typeorm';
import { signToken } from '../../src/auth/sign-token.js';
import { loadDatabaseSettings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { migrationDataSourceOptions } from '../../src/database/data-source-options.js';
import { type EmbeddedDatabase, freePort, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { migrateUp } from '../../src/database/migrate.js';
import { s3Environment } from '../support/s3-environment.js';
import { isPortOpen } from '../support/port-open.js';

export const JWT_SECRET = 'only for this benchmark, 0123456789abcdef';

/** A port and the instances that respond on it: one, or several behind a balancer. */
export type Installation = {
  readonly name: string;
  readonly port: number;
  readonly processes: readonly ChildProcess[];
};

/** One instance. */
export type Server = Installation & { readonly process: ChildProcess };

/** A bucket that gets no requests, as URLs are signed offline. */
export const OFFLINE_BUCKET = {
  STORAGE_DRIVER: 's3',
  DO_SPACES_KEY: 'bench-access-key',
  DO_SPACES_SECRET: 'bench-secret-key',
  DO_SPACES_ENDPOINT: 'https://fra1.digitaloceanspaces.com',
  DO_SPACES_REGION: 'fra1',
  DO_SPACES_BUCKET: 'bench-bucket',
  DO_SPACES_URL: 'https://bench-bucket.fra1.digitaloceanspaces.com',
  SWEEP_INTERVAL_SECONDS: '0',
} satisfies NodeJS.ProcessEnv;

/**
 * The memory of PostgreSQL, which operators set. The default of 128 MB is for any machine.
 *
 * @see https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-SHARED-BUFFERS
 */
const SIZED_FOR_ITS_DATA = { shared_buffers: process.env.BENCH_SHARED_BUFFERS ?? '2GB' };

/** The interval of the checks whether a server listens. */
const POLL_MS = 5;

type Options = {
  /** Whether a commit waits for the disk, as in production. Uploads are measured without it, as they use the storage's disk. */
  readonly durable?: boolean;
  /** Added to the environment of all servers. */
  readonly environment?: NodeJS.ProcessEnv;
  /** Fills the database. */
  readonly fill?: (database: DataSource) => Promise<unknown>;
};

/** The common database, storage and environment of all servers of a benchmark. */
export class Bench {
  private readonly servers: Server[] = [];

  private constructor(
    readonly environment: NodeJS.ProcessEnv & { readonly DATABASE_URL: string },
    readonly storage: 'S3' | 'local disk',
    private readonly postgres: EmbeddedDatabase,
    private readonly cleanUp: () => Promise<void>,
  ) {
    const interrupted = (): void => void this.close().finally(() => process.exit(130));
    process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  }

  static async open({
    durable = false,
    environment: more = {},
    fill = oneAppointment,
  }: Options = {}): Promise<Bench> {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-bench-'));
    const postgres = await startEmbeddedPostgres(
      durable
        ? {
            directory: join(tmpdir(), `chat-image-bench-${randomUUID()}`),
            password: JWT_SECRET.slice(0, 4),
            settings: SIZED_FOR_ITS_DATA,
          }
        : 'throwaway',
    );
    const cleanUp = async (): Promise<void> => {
      await postgres.stop();
      await rm(postgres.directory, { recursive: true, force: true });
      await rm(folder, { recursive: true, force: true });
    };
    const s3 = s3Environment();
    const environment = {
      NODE_ENV: 'production',
      LOG_LEVEL: 'info',
      APP_URL: 'http://localhost:3000',
      DATABASE_URL: await postgres.database('bench'),
      JWT_SECRET,
      STORAGE_DRIVER: 'local',
      LOCAL_STORAGE_DIR: folder,
      LOCAL_STORAGE_SECRET: JWT_SECRET,
      RATE_LIMIT_UPLOADS_PER_MINUTE: '1000000',
      RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '1000000',
      RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '1000000',
      ...s3,
      ...more,
    };
    const bench = new Bench(environment, s3 ? 'S3' : 'local disk', postgres, cleanUp);
    try {
      await bench.addDatabase('bench', fill);
    } catch (error) {
      await bench.close();
      throw error;
    }
    return bench;
  }

  /**
   * Creates, migrates and fills another database.
   *
   * @returns its URL
   */
  async addDatabase(name: string, fill: (database: DataSource) => Promise<unknown>): Promise<string> {
    const url = await this.postgres.database(name);
    await withDatabase(url, async (database) => {
      await migrateUp(database);
      await fill(database);
    });
    return url;
  }

  /** A bearer token of a user for a day. */
  tokenOf(userId: number): string {
    return signToken(userId, { algorithm: 'HS256', key: JWT_SECRET, issuer: undefined }, 86_400);
  }

  /** The parent process of PostgreSQL. */
  async postgresPid(): Promise<number> {
    return parseInt(await readFile(join(this.postgres.directory, 'postmaster.pid'), 'utf8'), 10);
  }

  /** Starts a server program of the build and waits until it listens. */
  async start(name: string, program: string, more: NodeJS.ProcessEnv = {}): Promise<Server> {
    const port = await freePort();
    const child = spawn(process.execPath, [program], {
      env: { ...this.environment, ...more, PATH: process.env.PATH, PORT: String(port) },
      // The log is written to nowhere, as its reader would use the measured cores.
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const server = { name, port, process: child, processes: [child] };
    this.servers.push(server);
    while (!(await isPortOpen(port))) {
      if (!isRunning(child)) throw new Error(`${name} did not start.`);
      await setTimeout(POLL_MS);
    }
    return server;
  }

  async close(): Promise<void> {
    for (const { process: child } of this.servers.filter(({ process: child }) => isRunning(child))) {
      child.kill('SIGTERM');
      await once(child, 'exit');
    }
    await this.cleanUp();
  }
}

/** Connects to a database, with the entities and types of the service. */
export async function withDatabase<T>(url: string, work: (database: DataSource) => Promise<T>): Promise<T> {
  const database = await new DataSource(
    migrationDataSourceOptions(loadDatabaseSettings({ DATABASE_URL: url }), ENTITIES),
  ).initialize();
  try {
    return await work(database);
  } finally {
    await database.destroy();
  }
}

/** Adds a patient, a doctor, and appointment 145. */
async function oneAppointment(database: DataSource): Promise<void> {
  await database.query('INSERT INTO users (id) VALUES (1), (2)');
  await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES (145, 1, 2)');
}

const isRunning = ({ exitCode, signalCode }: ChildProcess): boolean =>
  exitCode === null && signalCode === null;

/** The peak of a server's resident memory since the last reset, in MiB. NaN outside Linux. */
export async function peakMiB({ process: { pid } }: Server, { reset }: { reset: boolean }): Promise<number> {
  if (process.platform !== 'linux') return NaN;
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  if (reset) await writeFile(`/proc/${pid}/clear_refs`, '5').catch(() => undefined);
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

/** The phone photograph, scaled, with the noise of a camera sensor. */
export async function photograph(width: number, height: number, quality: number): Promise<Buffer> {
  const grain = await sharp({
    create: {
      width,
      height,
      channels: 3,
      background: 'grey',
      noise: { type: 'gaussian', mean: 128, sigma: 12 },
    },
  })
    .png()
    .toBuffer();
  return sharp(await readFile('test/images/phone-photo.jpg'))
    .resize(width, height, { fit: 'fill' })
    .composite([{ input: grain, blend: 'soft-light' }])
    .jpeg({ quality })
    .toBuffer();
}

export const FORM_TYPE = 'multipart/form-data; boundary=bench';

/** The form as the app sends it. */
export function form(photo: readonly Buffer[], appointmentId = 145): Buffer {
  const head =
    '--bench\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n';
  const tail = `\r\n--bench\r\nContent-Disposition: form-data; name="appointment_id"\r\n\r\n${appointmentId}\r\n--bench--\r\n`;
  return Buffer.concat([Buffer.from(head), ...photo, Buffer.from(tail)]);
}

/** Forms with a new picture each time, by a counter in a comment of the JPEG. */
export function forms(
  photo: Buffer,
  appointmentId?: number,
): { readonly type: string; readonly next: () => Buffer } {
  let count = 0;
  return {
    type: FORM_TYPE,
    next: () => {
      count += 1;
      const comment = Buffer.from(`${process.hrtime.bigint()} ${count}`.padEnd(60).slice(0, 60));
      const marker = Buffer.from([0xff, 0xfe, 0, 62]);
      return form([photo.subarray(0, 2), marker, comment, photo.subarray(2)], appointmentId);
    },
  };
}

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
