import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Redis } from 'ioredis';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { eventually } from './eventually.js';

/**
 * Whether Redis is installed.
 *
 * @throws Error when it is not, and REQUIRE_REDIS is set
 */
export function hasRedis(): boolean {
  const installed = !spawnSync('redis-server', ['--version']).error;
  if (!installed && process.env.REQUIRE_REDIS)
    throw new Error('REQUIRE_REDIS is set, but there is no redis-server: its tests must not be skipped.');
  return installed;
}

/** A real Redis with a password, which keeps nothing on the disk. */
export class RedisServer {
  private process: ChildProcess | undefined;

  private constructor(
    /** Its address, with the password. */
    readonly url: string,
    /** A connection of the tests, apart from the service. */
    readonly client: Redis,
    private readonly folder: string,
    private readonly options: readonly string[],
  ) {}

  /** @param tls whether it takes only TLS, with the certificate of `test/tls` */
  static async start({ tls = false }: { readonly tls?: boolean } = {}): Promise<RedisServer> {
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-store-redis-'));
    const port = String(await freePort());
    const address = tls
      ? ['--port', '0', '--tls-port', port, '--tls-auth-clients', 'no']
      : ['--port', port, '--bind', '127.0.0.1'];
    const certificate = tls
      ? ['ca-cert-file ca.pem', 'cert-file server.pem', 'key-file server.key'].flatMap((option) => {
          const [name = '', file = ''] = option.split(' ');
          return [`--tls-${name}`, resolve('test/tls', file)];
        })
      : [];
    const options = [...address, ...certificate, '--dir', folder, '--save', '', '--requirepass', 'p@ss/word'];
    const client = new Redis({
      host: 'localhost',
      family: 4,
      port: Number(port),
      password: 'p@ss/word',
      lazyConnect: true,
      retryStrategy: () => 20,
      maxRetriesPerRequest: null,
      ...(tls ? { tls: { rejectUnauthorized: false } } : {}),
    });
    client.on('error', () => undefined);
    const url = `redis${tls ? 's' : ''}://:${encodeURIComponent('p@ss/word')}@localhost:${port}/0`;
    const server = new RedisServer(url, client, folder, options);
    await server.resume();
    return server;
  }

  /** Starts the process, also after {@link kill}. Its keys are gone then. */
  async resume(): Promise<void> {
    const child = spawn('redis-server', this.options, { stdio: 'ignore' });
    this.process = child;
    await eventually(async () => {
      if (child.exitCode !== null) throw new Error(`redis-server ended with ${child.exitCode}.`);
      return (await this.client.ping().catch(() => '')) === 'PONG';
    }, 'redis-server to answer');
  }

  /** Sends a signal, such as SIGSTOP. Returns whether the process got it. */
  signal(name: NodeJS.Signals): boolean {
    return this.process?.kill(name) ?? false;
  }

  /** Kills the process, which ends every connection. */
  async kill(): Promise<void> {
    if (this.process?.exitCode !== null || this.process.signalCode !== null) return;
    this.process.kill('SIGKILL');
    await once(this.process, 'exit');
  }

  /** All keys, with what remains of their lives in milliseconds: -1 for ever. */
  async keys(): Promise<Readonly<Record<string, number>>> {
    const names = (await this.client.keys('*')).toSorted();
    return Object.fromEntries(
      await Promise.all(names.map(async (name) => [name, await this.client.pttl(name)] as const)),
    );
  }

  async stop(): Promise<void> {
    this.client.disconnect();
    await this.kill();
    await rm(this.folder, { recursive: true });
  }
}
