import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { isPortOpen } from './port-open.js';

/** Debian installs HAProxy in a folder that is not on every user's path. */
const PATH = `${process.env.PATH ?? ''}:/usr/sbin`;

/** The configuration that operators get. */
const CONFIGURATION = 'deploy/haproxy.cfg';

/**
 * Whether HAProxy is installed.
 *
 * @throws Error when it is not, and REQUIRE_HAPROXY is set
 */
export function hasHaproxy(): boolean {
  const found = spawnSync('haproxy', ['-v'], { env: { PATH } }).status === 0;
  if (!found && process.env.REQUIRE_HAPROXY)
    throw new Error('REQUIRE_HAPROXY is set, but haproxy is not installed: its tests must not be skipped.');
  return found;
}

/** A real HAProxy with `deploy/haproxy.cfg`. */
export class Haproxy {
  private constructor(
    readonly port: number,
    private readonly folder: string,
    readonly process: ChildProcess,
  ) {}

  /** @param instances the ports of the instances, which replace those of the file */
  static async start(instances: readonly number[]): Promise<Haproxy> {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-store-haproxy-'));
    const port = await freePort();
    const text = await readFile(CONFIGURATION, 'utf8');
    const [before = '', ...servers] = text.split(/^ {4}server .*\n/m);
    if (servers.join('').trim() !== '' || !before.includes('bind 127.0.0.1:8080'))
      throw new Error(`${CONFIGURATION} does not end with its servers, or does not listen on port 8080.`);
    const lines = instances.map((instance, index) => `    server instance-${index} 127.0.0.1:${instance}\n`);
    const file = join(folder, 'haproxy.cfg');
    await writeFile(file, before.replace('127.0.0.1:8080', `127.0.0.1:${port}`) + lines.join(''));
    const child = spawn('haproxy', ['-db', '-q', '-f', file], { env: { PATH }, stdio: 'ignore' });
    while (!(await isPortOpen(port))) {
      if (child.exitCode !== null) throw new Error(`haproxy ended with ${child.exitCode}.`);
      await setTimeout(20);
    }
    return new Haproxy(port, folder, child);
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async stop(): Promise<void> {
    if (this.process.exitCode === null) {
      this.process.kill('SIGKILL');
      await once(this.process, 'exit');
    }
    await rm(this.folder, { recursive: true });
  }
}
