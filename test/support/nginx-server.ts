import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { isPortOpen } from './port-open.js';

const START_LIMIT_MS = 10_000;

/** Debian installs nginx in a folder that is not on every user's path. */
const PATH = `${process.env.PATH ?? ''}:/usr/sbin`;

const KNOWN_FILES = ['site.conf', 'nginx.conf', 'nginx.pid', 'error.log', 'access.log'];

/** The site configuration that customers get. */
export const SITE_FILE = 'deploy/nginx.conf';

/**
 * Whether nginx is installed.
 *
 * @throws Error when it is not, and REQUIRE_NGINX is set
 */
export function hasNginx(): boolean {
  const found = spawnSync('nginx', ['-v'], { env: { PATH } }).status === 0;
  if (!found && process.env.REQUIRE_NGINX)
    throw new Error('REQUIRE_NGINX is set, but there is no nginx: its tests must not be skipped.');
  return found;
}

type Backends = { readonly chatImages: number; readonly mainApplication: number };

/** A real nginx with {@link SITE_FILE}, in its own folder. */
export class NginxServer {
  private constructor(
    readonly port: number,
    private readonly folder: string,
    private readonly child: ChildProcess,
  ) {}

  /**
   * @param backends the ports that replace those of the file
   * @param edit changes the text of the file, as operators do
   */
  static async start(backends: Backends, edit = (site: string): string => site): Promise<NginxServer> {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-store-nginx-'));
    const port = await freePort();
    let site = edit(await readFile(SITE_FILE, 'utf8'));
    for (const [theirs, ours] of [
      ['listen 80;', `listen 127.0.0.1:${port};`],
      ['server 127.0.0.1:3000;', `server 127.0.0.1:${backends.chatImages};`],
      ['server 127.0.0.1:8000;', `server 127.0.0.1:${backends.mainApplication};`],
    ] as const) {
      if (site.split(theirs).length !== 2) throw new Error(`${SITE_FILE} has not exactly one ${theirs}`);
      site = site.replace(theirs, ours);
    }
    await writeFile(join(folder, 'site.conf'), site);
    await writeFile(join(folder, 'nginx.conf'), mainConfiguration(folder));
    const child = spawn(
      'nginx',
      ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', join(folder, 'error.log')],
      { env: { PATH }, stdio: 'ignore' },
    );
    const nginx = new NginxServer(port, folder, child);
    await nginx.listening();
    return nginx;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The log lines of level warning and above. */
  async errors(): Promise<string> {
    return readFile(join(this.folder, 'error.log'), 'utf8');
  }

  /** The temporary files of current requests and responses. */
  async temporaryFiles(): Promise<string[]> {
    const entries = await readdir(this.folder, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile() && !KNOWN_FILES.includes(entry.name))
      .map(({ name }) => name);
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null) {
      const exit = once(this.child, 'exit');
      this.child.kill('SIGTERM');
      await exit;
    }
    await rm(this.folder, { recursive: true });
  }

  private async listening(): Promise<void> {
    const deadline = Date.now() + START_LIMIT_MS;
    while (!(await isPortOpen(this.port))) {
      if (this.child.exitCode !== null || Date.now() > deadline)
        throw new Error(`nginx did not start:\n${await this.errors()}`);
      await setTimeout(50);
    }
  }
}

/** The main configuration around the site, with all files in the folder. */
function mainConfiguration(folder: string): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  return `
    ${process.getuid?.() === 0 ? 'user root;' : ''}
    worker_processes 1;
    daemon off;
    pid ${folder}/nginx.pid;
    error_log ${folder}/error.log warn;
    events { worker_connections 256; }
    http {
      access_log ${folder}/access.log;
      ${temporary.map((name) => `${name}_temp_path ${folder}/temporary-${name};`).join('\n')}
      include ${folder}/site.conf;
    }`;
}
