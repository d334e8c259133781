import { createServer, request, type Server } from 'node:http';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { eventually } from '../support/eventually.js';
import { RunningProcess } from '../support/run-process.js';

/** The phases of the migration. */
export type Phase = 1 | 2 | 3 | 4;

/** Names the phase of the instance that has answered. */
export const PHASE_HEADER = 'x-rehearsal-phase';

/** Longer than clients keep an idle connection: a request must not meet the end of its connection. */
export const KEEP_ALIVE_MS = 600_000;

/** The time for a process to start and to end, on a busy machine. */
const LIMIT_MS = 90_000;

class Instance {
  /** Requests that it has not answered yet. */
  underWay = 0;

  private constructor(
    readonly phase: Phase,
    readonly port: number,
    readonly process: RunningProcess,
  ) {}

  static async start(phase: Phase, environment: NodeJS.ProcessEnv): Promise<Instance> {
    const port = await freePort();
    const process = new RunningProcess(['main.js'], {
      env: { ...environment, PORT: String(port), MIGRATION_PHASE: String(phase) },
    });
    await process.printed(/"listening"/, LIMIT_MS);
    return new Instance(phase, port, process);
  }

  /** Ends it as an orchestrator does: without new requests. */
  async stop(): Promise<void> {
    await eventually(() => this.underWay === 0, 'the last requests of an instance', LIMIT_MS);
    this.process.signal('SIGTERM');
    await this.process.exit;
  }
}

/** The built service behind a load balancer. The next instance starts before the one before ends. */
export class Service {
  private instances: Instance[] = [];
  private readonly ended: RunningProcess[] = [];
  private next = 0;

  private constructor(
    private readonly environment: NodeJS.ProcessEnv,
    private readonly balancer: Server,
    readonly url: string,
  ) {}

  static async start(environment: NodeJS.ProcessEnv, phase: Phase): Promise<Service> {
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const balancer = createServer({ keepAliveTimeout: KEEP_ALIVE_MS });
    const service = new Service({ ...environment, APP_URL: url }, balancer, url);
    service.balance();
    await new Promise<void>((resolve) => balancer.listen(port, '127.0.0.1', resolve));
    service.instances = [await Instance.start(phase, service.environment)];
    return service;
  }

  /** The environment of the instances and of commands. */
  environmentOf(phase: Phase): NodeJS.ProcessEnv {
    return { ...this.environment, MIGRATION_PHASE: String(phase) };
  }

  /**
   * Replaces the instance, so that there is always one.
   *
   * @param between called while instances of both phases answer
   */
  async enter(phase: Phase, between: () => Promise<void>): Promise<void> {
    const before = this.instances;
    const instance = await Instance.start(phase, this.environment);
    this.instances = [...before, instance];
    await between();
    this.instances = [instance];
    for (const last of before) {
      await last.stop();
      this.ended.push(last.process);
    }
  }

  async stop(): Promise<void> {
    this.balancer.closeAllConnections();
    await new Promise((resolve) => this.balancer.close(resolve));
    for (const { process } of this.instances) process.signal('SIGKILL');
    await Promise.all(this.instances.map(({ process }) => process.exit));
  }

  /**
   * Log lines of errors, of which there should be none. The comparison of rows and objects reads them one after the other:
   * beside an import it counts pictures that have come between.
   */
  errors(): readonly string[] {
    return [...this.ended, ...this.instances.map(({ process }) => process)].flatMap(({ output }) =>
      output
        .split('\n')
        .filter(
          (line) => /"level":"(error|fatal)"/.test(line) && !line.includes('"reconcile: images have lost'),
        ),
    );
  }

  /** Sends each request to the next instance. */
  private balance(): void {
    this.balancer.on('request', (incoming, outgoing) => {
      const instance = this.instances[(this.next += 1) % this.instances.length];
      if (!instance) {
        outgoing.writeHead(502).end();
        return;
      }
      instance.underWay += 1;
      outgoing.on('close', () => (instance.underWay -= 1));
      const { method, url, headers } = incoming;
      const forwarded = request(
        { host: '127.0.0.1', port: instance.port, method, path: url, headers },
        (answer) => {
          outgoing.writeHead(answer.statusCode ?? 502, {
            ...answer.headers,
            [PHASE_HEADER]: String(instance.phase),
          });
          answer.pipe(outgoing);
        },
      );
      forwarded.on('error', () => outgoing.destroy());
      incoming.pipe(forwarded);
    });
  }
}
