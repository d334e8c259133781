import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { isPortOpen } from './port-open.js';

/**
 * Whether PgBouncer is installed.
 *
 * @throws Error when it is not, and REQUIRE_PGBOUNCER is set
 */
export function hasPgBouncer(): boolean {
  const installed = !spawnSync('pgbouncer', ['--version']).error;
  if (!installed && process.env.REQUIRE_PGBOUNCER)
    throw new Error('REQUIRE_PGBOUNCER is set, but pgbouncer is not installed.');
  return installed;
}

/** A real PgBouncer in transaction mode, in front of a local database. */
export class PgBouncer {
  private process: ChildProcess | undefined;

  private constructor(
    /** The database's address through the pooler. */
    readonly url: string,
    private readonly folder: string,
    private readonly port: number,
  ) {}

  /**
   * @param databaseUrl the direct address of the database
   * @param settings added to the section [pgbouncer]
   */
  static async start(
    databaseUrl: string,
    settings: Readonly<Record<string, string>> = {},
  ): Promise<PgBouncer> {
    const { hostname, port, username, password, pathname } = new URL(databaseUrl);
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-store-pgbouncer-'));
    const ownPort = await freePort();
    const lines = Object.entries({
      listen_addr: '127.0.0.1',
      listen_port: String(ownPort),
      unix_socket_dir: '',
      auth_type: 'plain',
      auth_file: join(folder, 'users'),
      pool_mode: 'transaction',
      ...settings,
    }).map(([name, value]) => `${name} = ${value}`);
    await writeFile(
      join(folder, 'pgbouncer.ini'),
      [`[databases]`, `* = host=${hostname} port=${port}`, `[pgbouncer]`, ...lines, ''].join('\n'),
    );
    await writeFile(join(folder, 'users'), `"${username}" "${password}"\n`);
    // PgBouncer does not run as root, and must be able to read these files.
    await chmod(folder, 0o755);
    const url = `postgres://${username}:${password}@127.0.0.1:${ownPort}${pathname}`;
    const pooler = new PgBouncer(url, folder, ownPort);
    await pooler.resume();
    return pooler;
  }

  /** Starts the process, also after {@link halt}. */
  async resume(): Promise<void> {
    const asUser = process.getuid?.() === 0 ? ['-u', 'postgres'] : [];
    const child = spawn('pgbouncer', ['-q', ...asUser, join(this.folder, 'pgbouncer.ini')], {
      stdio: 'ignore',
    });
    this.process = child;
    while (!(await isPortOpen(this.port))) {
      if (child.exitCode !== null) throw new Error(`pgbouncer ended with ${child.exitCode}.`);
      await setTimeout(20);
    }
  }

  /** Kills the process, which ends every connection. */
  async halt(): Promise<void> {
    if (this.process?.exitCode !== null) return;
    this.process.kill('SIGKILL');
    await once(this.process, 'exit');
    this.process = undefined;
  }

  async stop(): Promise<void> {
    await this.halt();
    await rm(this.folder, { recursive: true });
  }
}
