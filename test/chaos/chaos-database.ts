import { randomUUID } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { type EmbeddedDatabase, freePort, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { childProcesses, commandLine, signalAll } from '../support/child-processes.js';
import { pick, type RandomNumbers } from '../support/random-numbers.js';
import type { EndFault } from './plan.js';

/** A commit that was answered survives the end of every process; only the machine itself must not fail. */
const SETTINGS = { fsync: 'off', full_page_writes: 'off' };

const POLL_MS = 20;

/** A PostgreSQL server that can be paused, restarted and made to crash. It keeps its port. */
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

  /** Stops all its processes where they are. Resolves to what lets them go on. */
  pause(): EndFault {
    // The first starts all others, so that none is added to those that are stopped.
    signalAll([this.pid], 'SIGSTOP');
    const pids = [...childProcesses(this.pid), this.pid];
    signalAll(pids, 'SIGSTOP');
    return () => signalAll(pids, 'SIGCONT');
  }

  /** Shuts it down, which ends every connection. Resolves to what starts it. */
  async shutDown(): Promise<EndFault> {
    await this.server.stop();
    return async () => {
      this.server = await this.start();
      this.pid = await pidOf(this.server);
    };
  }

  /** Kills the process of one connection, whereupon the server ends all of them and recovers from its log. */
  crash(random: RandomNumbers): void {
    const backends = childProcesses(this.pid).filter((pid) => commandLine(pid).includes('127.0.0.1('));
    if (backends.length > 0) signalAll([pick(random, backends)], 'SIGKILL');
  }

  async stop(): Promise<void> {
    // An interruption from the terminal has reached it as well: then it ends on its own.
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
