import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { DataSource } from 'typeorm';
import { signToken } from '../../src/auth/sign-token.js';
import { migrationDataSourceOptions } from '../../src/database/data-source-options.js';
import { freePort, startEmbeddedPostgres } from '../../src/database/embedded-postgres.js';
import { migrateUp } from '../../src/database/migrate.js';
import { s3Environment } from '../s3-environment.js';

export const JWT_SECRET = 'only for this benchmark, 0123456789abcdef';

export type Server = { readonly name: string; readonly port: number; readonly process: ChildProcess };

/** The database, the storage and the environment that all servers of a benchmark share. */
export class Bench {
  private readonly servers: Server[] = [];

  private constructor(
    readonly environment: NodeJS.ProcessEnv & { readonly DATABASE_URL: string },
    /** A bearer token of the patient of appointment 145. */
    readonly token: string,
    readonly storage: 'S3' | 'local disk',
    private readonly cleanUp: () => Promise<void>,
  ) {}

  static async open(): Promise<Bench> {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-bench-'));
    const postgres = await startEmbeddedPostgres('throwaway');
    const url = await postgres.database('bench');
    const dataSource = await new DataSource(
      migrationDataSourceOptions({ url, poolSize: 2, connectTimeoutMs: 5000, statementTimeoutMs: 0 }),
    ).initialize();
    await migrateUp(dataSource);
    await dataSource.query('INSERT INTO users (id) VALUES (1), (2)');
    await dataSource.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES (145, 1, 2)');
    await dataSource.destroy();
    const s3 = s3Environment();
    const environment = {
      NODE_ENV: 'production',
      APP_URL: 'http://localhost:3000',
      DATABASE_URL: url,
      JWT_SECRET,
      STORAGE_DRIVER: 'local',
      LOCAL_STORAGE_DIR: folder,
      LOCAL_STORAGE_SECRET: JWT_SECRET,
      RATE_LIMIT_UPLOADS_PER_MINUTE: '1000000',
      RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '1000000',
      ...s3,
    };
    const token = signToken(1, { algorithm: 'HS256', key: JWT_SECRET, issuer: undefined }, 3600);
    return new Bench(environment, token, s3 ? 'S3' : 'local disk', async () => {
      await postgres.stop();
      await rm(folder, { recursive: true, force: true });
    });
  }

  /** Starts a server program of the build, which says "listening" when it does. */
  async start(name: string, program: string, more: NodeJS.ProcessEnv = {}): Promise<Server> {
    const port = await freePort();
    const child = spawn(process.execPath, [program], {
      env: { ...this.environment, ...more, PATH: process.env.PATH, PORT: String(port) },
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    });
    await new Promise<void>((resolve, reject) => {
      child.stdout?.on('data', (chunk: Buffer) => chunk.includes('"listening"') && resolve());
      child.on('exit', () => reject(new Error(`${name} did not start.`)));
    });
    const server = { name, port, process: child };
    this.servers.push(server);
    return server;
  }

  async close(): Promise<void> {
    for (const server of this.servers.filter(({ process: { exitCode } }) => exitCode === null)) {
      server.process.kill('SIGTERM');
      await once(server.process, 'exit');
    }
    await this.cleanUp();
  }
}

/** Peak of a server's resident memory since the last reset, in MiB; not a number where the system does not tell it. */
export async function peakMiB({ process: { pid } }: Server, { reset }: { reset: boolean }): Promise<number> {
  if (process.platform !== 'linux') return NaN;
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  if (reset) await writeFile(`/proc/${pid}/clear_refs`, '5').catch(() => undefined);
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

/** A photograph: the shipped one, scaled, with the grain of a camera's sensor. */
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

/** The form as the app sends it, with a picture of its own each time: a comment in the JPEG is counted up. */
export function forms(photo: Buffer): { readonly type: string; readonly next: () => Buffer } {
  const head = Buffer.from(
    '--bench\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n',
  );
  const tail = Buffer.from(
    '\r\n--bench\r\nContent-Disposition: form-data; name="appointment_id"\r\n\r\n145\r\n--bench--\r\n',
  );
  let count = 0;
  return {
    type: 'multipart/form-data; boundary=bench',
    next: () => {
      count += 1;
      const comment = Buffer.from(`${process.hrtime.bigint()} ${count}`.padEnd(60).slice(0, 60));
      return Buffer.concat([
        head,
        photo.subarray(0, 2),
        Buffer.from([0xff, 0xfe, 0, 62]),
        comment,
        photo.subarray(2),
        tail,
      ]);
    },
  };
}

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
