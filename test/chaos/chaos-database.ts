import { randomUUID } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { type EmbeddedDatabase, freePort, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { childProcesses, commandLine, signalAll } from '../support/child-processes.js';
import { pick, type RandomNumbers } from '../support/random-numbers.js';
import type { EndFault } from './plan.js';

/** Without fsync, a commit survives the end of every process, but not of the machine. */
const SETTINGS = { fsync: 'off', full_page_writes: 'off' };

const POLL_MS = 20;

/** A PostgreSQL server that can be paused, restarted and crashed. It keeps its port. */
export class ChaosDatabase {
  private constructor(
    private server: EmbeddedDatabase,
    readonly url: string,
    private pid: number,
    private readonly start: () => Promise<EmbeddedDatabase>,
  ) {}

  static async start(): Promise<ChaosDatabase> {
    const options = {
      directory: join(tmpdir(), `chat-image-chaos-${randomUUID()}`),
      password: 'chaos',
      settings: SETTINGS,
      port: await freePort(),
    };
    const start = (): Promise<EmbeddedDatabase> => startEmbeddedPostgres(options);
    const server = await start();
    return new ChaosDatabase(server, await server.database('chaos'), await pidOf(server), start);
  }

  /** Pauses all its processes. Returns a function that resumes them. */
  pause(): EndFault {
    // The first process starts all others, so it is paused first.
    signalAll([this.pid], 'SIGSTOP');
    const pids = [...childProcesses(this.pid), this.pid];
    signalAll(pids, 'SIGSTOP');
    return () => signalAll(pids, 'SIGCONT');
  }

  /** Shuts the server down, which ends every connection. Resolves to a function that starts it. */
  async shutDown(): Promise<EndFault> {
    await this.server.stop();
    return async () => {
      this.server = await this.start();
      this.pid = await pidOf(this.server);
    };
  }

  /** Kills the process of a connection. The server then ends all connections and recovers from its log. */
  crash(random: RandomNumbers): void {
    const backends = childProcesses(this.pid).filter((pid) => commandLine(pid).includes('127.0.0.1('));
    if (backends.length > 0) signalAll([pick(random, backends)], 'SIGKILL');
  }

  async stop(): Promise<void> {
    // The server also gets an interruption from the terminal, and then ends on its own.
    await Promise.race([this.server.stop(), this.hasEnded()]);
    await rm(this.server.directory, { recursive: true, force: true });
  }

  private async hasEnded(): Promise<void> {
    while (commandLine(this.pid) !== '') await setTimeout(POLL_MS);
  }
}

async function pidOf({ directory }: EmbeddedDatabase): Promise<number> {
  return parseInt(await readFile(join(directory, 'postmaster.pid'), 'utf8'), 10);
}
