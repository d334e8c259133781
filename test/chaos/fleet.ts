import { setTimeout } from 'node:timers/promises';
import { DataSource } from 'typeorm';
import { signToken } from '../../src/auth/sign-token.js';
import { loadSettings, type Settings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { migrationDataSourceOptions } from '../../src/database/data-source-options.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { migrateUp } from '../../src/database/migrate.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { randomNumbers } from '../support/random-numbers.js';
import { ChaosDatabase } from './chaos-database.js';
import { ChaosInstance } from './chaos-instance.js';
import { type ChaosStorage, startStorage } from './chaos-storage.js';
import { orEnded } from './or-ended.js';
import { APPOINTMENTS, type EndFault, INSTANCES, OUTSIDER, type PlannedFault, SENDERS } from './plan.js';

/**
 * Upkeep runs sooner than in production, and rate limits are very high. Retries and leases have the times of
 * production.
 */
const ENVIRONMENT = {
  NODE_ENV: 'test',
  LOG_LEVEL: 'info',
  JWT_SECRET: 'a secret that only this run knows, 0123456789',
  STORAGE_DRIVER: 'local',
  LOCAL_STORAGE_SECRET: 'another secret that only this run knows, 01234',
  // The warning would be on standard error, where no output is expected.
  AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true',
  DECODE_PROCESSES: '2',
  SHUTDOWN_DELAY_MS: '1000',
  SWEEP_INTERVAL_SECONDS: '1',
  UPLOAD_GRACE_SECONDS: '20',
  RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '100000',
  RATE_LIMIT_UPLOADS_PER_MINUTE: '100000',
  RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '100000',
} satisfies NodeJS.ProcessEnv;

/** The time to wait for an upload that a fault can hit. */
const MID_UPLOAD_LIMIT_MS = 3000;
const POLL_MS = 10;

const TOKEN_SECONDS = 24 * 3600;

/** Runs tasks one after the other, as two faults of the same part would undo each other. */
class Queue {
  private last: Promise<void> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.last.then(work);
    this.last = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }

  /** Resolves when all tasks have ended. */
  async empty(): Promise<void> {
    await this.last;
  }
}

/** Instances of the service over one database and one storage, with all their faults. */
export class Fleet {
  readonly findings: string[] = [];
  private readonly instances: ChaosInstance[] = [];
  private readonly proxies: CuttingProxy[] = [];
  private readonly urls: string[] = [];
  private readonly queues = {
    database: new Queue(),
    processes: Array.from({ length: INSTANCES }, () => new Queue()),
    databaseWays: Array.from({ length: INSTANCES }, () => new Queue()),
    storageWays: Array.from({ length: INSTANCES }, () => new Queue()),
  };
  private readonly disturbances = { begun: 0, lasting: 0 };
  /** Aborted when the fleet stops. */
  private readonly over = new AbortController();

  private constructor(
    private readonly database: ChaosDatabase,
    readonly storage: ChaosStorage,
    /** Settings with direct addresses of database and storage. */
    private readonly settings: Settings,
  ) {}

  static async start(signal: AbortSignal | undefined): Promise<Fleet> {
    const storage = await startStorage();
    const database = await ChaosDatabase.start().catch(async (error: unknown) => {
      await storage.stop();
      throw error;
    });
    const ports = await Promise.all(Array.from({ length: INSTANCES }, () => freePort()));
    // All instances share an address, as behind a load balancer. It leads to the first instance, which serves local pictures.
    const environment = {
      ...ENVIRONMENT,
      APP_URL: `http://127.0.0.1:${ports[0]}`,
      DATABASE_URL: database.url,
    };
    const fleet = new Fleet(database, storage, loadSettings({ ...environment, ...storage.environment(0) }));
    try {
      await fleet.withDatabase(addPeople);
      for (const [index, port] of ports.entries()) await fleet.addInstance(index, port, environment);
      await orEnded(Promise.all(fleet.instances.map((instance) => instance.start())), signal);
    } catch (error) {
      await fleet.stop();
      throw error;
    }
    return fleet;
  }

  /** The address of an instance. */
  urlOf(instance: number): string {
    return this.urls[instance] ?? '';
  }

  tokenOf(user: number): string {
    return signToken(user, this.settings.jwt, TOKEN_SECONDS);
  }

  /** Makes a fault when the previous fault of the same part has ended. Resolves when the fault has ended. */
  async make(fault: PlannedFault): Promise<void> {
    const { database, processes, databaseWays, storageWays } = this.queues;
    const { instance: index, network } = fault;
    const instance = this.instances[index];
    const proxy = this.proxies[index];
    if (!instance || !proxy) return;
    const disturbStorage = (which: number): Promise<void> =>
      this.last(storageWays[which], fault, true, () => this.storage.disturb(which, network));
    switch (fault.kind) {
      case 'kill an instance':
        return this.last(processes[index], fault, false, () =>
          this.inMidUpload(fault, () => instance.kill()),
        );
      case 'restart an instance':
        return this.last(processes[index], fault, false, async () => {
          await instance.restart();
          return undefined;
        });
      case 'pause an instance':
        return this.last(processes[index], fault, false, () =>
          this.inMidUpload(fault, () => instance.pause()),
        );
      case 'kill decoding processes':
        return this.last(processes[index], fault, false, () => {
          instance.killDecodingProcesses();
          return undefined;
        });
      case 'pause the database':
        return this.last(database, fault, true, () => this.database.pause());
      case 'restart the database':
        return this.last(database, fault, true, () => this.database.shutDown());
      case 'crash the database':
        return this.last(database, fault, true, () => {
          this.database.crash(randomNumbers(fault.atMs));
          return undefined;
        });
      case 'disturb the database of an instance':
        return this.last(databaseWays[index], fault, true, () => {
          proxy.fail(network);
          return () => proxy.pass();
        });
      case 'disturb the storage of an instance':
        return disturbStorage(index);
      case 'disturb the storage':
        await Promise.all(storageWays.map((_, which) => disturbStorage(which)));
    }
  }

  /** Restarts every instance with SIGTERM, which ends their running requests. */
  async restartAll(): Promise<void> {
    await Promise.all(this.instances.map((instance) => instance.restart()));
  }

  /** The number of cancelled requests to database and storage that may still take effect. */
  underWay(): number {
    return this.storage.underWay() + this.proxies.reduce((sum, { underWay }) => sum + underWay, 0);
  }

  /** Uses a direct database connection, apart from all instances. */
  async withDatabase<T>(work: (database: DataSource) => Promise<T>): Promise<T> {
    const database = await new DataSource(
      migrationDataSourceOptions(this.settings.database, ENTITIES),
    ).initialize();
    try {
      return await work(database);
    } finally {
      await database.destroy();
    }
  }

  /** The unexpected log lines of the instances. */
  logged(): readonly string[] {
    return this.instances.flatMap((instance) => instance.findings());
  }

  /** Stops everything, in any state. */
  async stop(): Promise<void> {
    this.over.abort();
    const outcomes = await Promise.allSettled(this.instances.map((instance) => instance.stop()));
    // Faults are ended first, as a paused process can not be stopped.
    const { database, ...others } = this.queues;
    await Promise.all([database, ...Object.values(others).flat()].map((queue) => queue.empty()));
    outcomes.push(...(await Promise.allSettled(this.proxies.map((proxy) => proxy.stop()))));
    outcomes.push(...(await Promise.allSettled([this.database.stop(), this.storage.stop()])));
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  }

  private async addInstance(index: number, port: number, environment: NodeJS.ProcessEnv): Promise<void> {
    const address = new URL(this.database.url);
    const proxy = await CuttingProxy.start({ host: address.hostname, port: Number(address.port) });
    this.proxies.push(proxy);
    address.host = proxy.address;
    this.urls.push(`http://127.0.0.1:${port}`);
    this.instances.push(
      new ChaosInstance(
        `instance ${index}`,
        {
          ...environment,
          ...this.storage.environment(index),
          PORT: String(port),
          DATABASE_URL: address.href,
        },
        {
          disturbances: () => ({ ...this.disturbances }),
          onFinding: (text) => void this.findings.push(text),
        },
      ),
    );
  }

  /** Begins a fault while an upload of the instance is held between two steps, if there is an upload. */
  private async inMidUpload(
    { instance, network, heldIsLost }: PlannedFault,
    begin: () => EndFault | Promise<EndFault>,
  ): Promise<EndFault | undefined> {
    return this.queues.databaseWays[instance]?.run(async () => {
      const proxy = this.proxies[instance];
      proxy?.fail(network);
      const deadline = performance.now() + MID_UPLOAD_LIMIT_MS;
      while (proxy?.hits === 0 && performance.now() < deadline && !this.over.signal.aborted)
        await setTimeout(POLL_MS);
      try {
        return await begin();
      } finally {
        if (heldIsLost) proxy?.fail({ how: 'refuse' });
        proxy?.pass();
      }
    });
  }

  /**
   * Begins a fault, and ends it after its time.
   *
   * @param disturbs whether the fault disturbs the database or the storage
   */
  private async last(
    queue: Queue | undefined,
    { lastsMs }: PlannedFault,
    disturbs: boolean,
    begin: () => EndFault | undefined | Promise<EndFault | undefined>,
  ): Promise<void> {
    await queue?.run(async () => {
      if (this.over.signal.aborted) return;
      const count = disturbs ? 1 : 0;
      this.disturbances.begun += count;
      this.disturbances.lasting += count;
      try {
        const end = await begin();
        await setTimeout(lastsMs, undefined, { signal: this.over.signal }).catch(() => undefined);
        await end?.();
      } finally {
        this.disturbances.lasting -= count;
      }
    });
  }
}

async function addPeople(database: DataSource): Promise<void> {
  await migrateUp(database);
  await database.query('INSERT INTO users (id) SELECT unnest($1::bigint[])', [[...SENDERS, OUTSIDER]]);
  for (const { id, patient, doctor } of APPOINTMENTS)
    await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3)', [
      id,
      patient,
      doctor,
    ]);
}
