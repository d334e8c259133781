import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ChatImages, type Image, send } from '../src/index.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import { StorageReconciler } from '../../src/upkeep/storage-reconciler.js';
import { eventually } from '../../test/support/eventually.js';
import { hasHaproxy, Haproxy } from '../../test/support/haproxy.js';
import { hasPgBouncer, PgBouncer } from '../../test/support/pgbouncer.js';
import { picture } from '../../test/support/pictures.js';
import { hasRedis, RedisServer } from '../../test/support/redis-server.js';
import { RunningProcess } from '../../test/support/run-process.js';
import { s3Environment } from '../../test/support/s3-environment.js';
import { APPOINTMENT, PATIENT, TEST_ENVIRONMENT, TestApp } from '../../test/support/test-app.js';

const READERS = 2;
const SENDERS = 1;

/** Longer than the two seconds that HAProxy needs to see that an instance stops. */
const SHUTDOWN_DELAY_MS = 4000;

const LIMIT_MS = 240_000;

/** Short leases and sweeps, so that what an instance leaves behind is seen to be taken over. */
const ENVIRONMENT = {
  ...TEST_ENVIRONMENT,
  TRUST_PROXY: '1',
  SHUTDOWN_DELAY_MS: String(SHUTDOWN_DELAY_MS),
  UPLOAD_GRACE_SECONDS: '5',
  SWEEP_INTERVAL_SECONDS: '1',
  DATABASE_POOL_SIZE: '4',
} satisfies NodeJS.ProcessEnv;

/** With a bucket the database is direct, without one it is behind PgBouncer where that is installed. */
const BUCKET = s3Environment();
const POOLED = BUCKET === undefined && hasPgBouncer();

const describeWithHaproxy = hasHaproxy() ? describe : describe.skip;

describeWithHaproxy(
  `three instances behind HAProxy, ${POOLED ? 'on PgBouncer' : 'on a direct database'} (skipped without HAProxy)`,
  () => {
    /** Its database and storage are what the instances share. Nobody asks it, and it sweeps nothing. */
    let test: TestApp;
    let pooler: PgBouncer | undefined;
    let redis: RedisServer | undefined;
    let haproxy: Haproxy;
    let instances: readonly Instance[];

    beforeAll(async () => {
      test = await TestApp.start({ SWEEP_INTERVAL_SECONDS: '0', ...BUCKET });
      if (POOLED) pooler = await PgBouncer.start(test.settings.database.url, { default_pool_size: '5' });
      if (hasRedis()) redis = await RedisServer.start();
      const ports = await Promise.all([1, 2, 3].map(() => freePort()));
      haproxy = await Haproxy.start(ports);
      const { storage, database } = test.settings;
      instances = ports.map(
        (port) =>
          new Instance({
            ...ENVIRONMENT,
            PORT: String(port),
            APP_URL: haproxy.url,
            ...(pooler
              ? { DATABASE_URL: pooler.url, DATABASE_POOLER: 'transaction' }
              : { DATABASE_URL: database.url }),
            ...(redis ? { REDIS_URL: redis.url } : {}),
            LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : undefined,
            ...BUCKET,
          }),
      );
      await Promise.all(instances.map((instance) => instance.start()));
      await eventually(async () => (await fetch(`${haproxy.url}/api/health/ready`)).ok);
    });

    afterAll(async () => {
      for (const instance of instances) await instance.kill();
      await haproxy.stop();
      await redis?.stop();
      await pooler?.stop();
      await test.stop();
    });

    /** The invariant after every fault: each upload is one image, and each image has its object. */
    async function expectTidy(load: Load): Promise<void> {
      await eventually(async () => (await pendingRows()) === 0, 'pending uploads to end');
      expect(await storedIds()).toEqual(
        load.uploaded.map(({ id }) => id).toSorted((one, other) => one - other),
      );
      const { missing, unknown } = await test.app.get(StorageReconciler).compare();
      expect([missing.first, unknown.first]).toEqual([[], []]);
    }

    async function pendingRows(): Promise<number> {
      const rows: unknown[] = await test.database.query(`SELECT id FROM chat_images WHERE state <> 'stored'`);
      return rows.length;
    }

    async function storedIds(): Promise<readonly number[]> {
      const rows: { id: number }[] = await test.database.query('SELECT id FROM chat_images ORDER BY id');
      return rows.map(({ id }) => id);
    }

    const all: Image[] = [];
    const newLoad = (): Load => new Load(haproxy.url, () => test.token(PATIENT), all);

    it('leave an answer of the same form to HAProxy when none of them is there', async () => {
      const nobody = await Haproxy.start([await freePort()]);
      try {
        const answer = await fetch(`${nobody.url}/api/health`);
        expect(answer.status).toBe(503);
        expect(answer.headers.get('retry-after')).toBe('5');
        expect(await answer.json()).toEqual({
          success: false,
          error_code: 'OVERLOADED',
          message: expect.stringMatching(/[.]$/),
          request_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        });
      } finally {
        await nobody.stop();
      }
    });

    it(
      'are replaced one after the other, and no app sees it',
      async () => {
        const load = newLoad();
        await load.while(async () => {
          for (const instance of instances) {
            expect(await instance.stop()).toBe(0);
            await instance.start();
            await instance.hasAnswered();
          }
        });
        expect(load.failures).toEqual([]);
        expect(load.requests).toBeGreaterThan(1000);
        expect(load.repeats * 1000).toBeLessThan(load.requests);
        await expectTidy(load);
      },
      LIMIT_MS,
    );

    it(
      'lose one that is killed, and no app loses a picture',
      async () => {
        const load = newLoad();
        const [victim] = instances;
        await load.while(async () => {
          await load.isSending();
          await victim?.kill();
          await load.goesOn();
          await victim?.start();
          await victim?.hasAnswered();
        });
        expect(load.failures).toEqual([]);
        await expectTidy(load);
      },
      LIMIT_MS,
    );

    it(
      'go on beside one that hangs, clear up in its place, and take it back',
      async () => {
        const load = newLoad();
        const [, victim] = instances;
        await load.while(async () => {
          await load.isSending();
          victim?.signal('SIGSTOP');
          await load.allEnd();
          await load.goesOn();
          await addLeftovers();
          await eventually(async () => (await leftovers()) === 0, 'the others to sweep');
          victim?.signal('SIGCONT');
          await victim?.hasAnswered();
        });
        expect(load.failures).toEqual([]);
        await expectTidy(load);
      },
      LIMIT_MS,
    );

    /** An upload that crashed an hour ago, and a deleted picture whose object may still be there. */
    async function addLeftovers(): Promise<void> {
      await test.database.query(
        `INSERT INTO chat_images (appointment_id, uploaded_by, filename, file_path, mime_type, size, state, created_at)
         SELECT $1, $2, name, 'chat_images/' || name, 'image/jpeg', 1, 'pending', now() - interval '1 hour'
         FROM (SELECT gen_random_uuid() || '.jpg' AS name) names`,
        [APPOINTMENT, PATIENT],
      );
      await test.database.query(
        `INSERT INTO chat_image_tombstones (object_key, settled_at, next_attempt_at)
         VALUES ('chat_images/' || gen_random_uuid() || '.jpg', now() - interval '1 hour', now())`,
      );
    }

    async function leftovers(): Promise<number> {
      const rows: unknown[] = await test.database.query(
        `SELECT 1 FROM chat_images WHERE state <> 'stored' AND created_at < now() - interval '30 minutes'
         UNION ALL SELECT 1 FROM chat_image_tombstones WHERE settled_at < now() - interval '30 minutes'`,
      );
      return rows.length;
    }
  },
);

/** An instance of the build, which can be started again. */
class Instance {
  private process: RunningProcess | undefined;

  constructor(private readonly environment: NodeJS.ProcessEnv) {}

  async start(): Promise<void> {
    this.process = new RunningProcess(['main.js'], { env: this.environment });
    await this.process.printed(/"listening"/);
  }

  /** Resolves when it has answered an app from now on, so that HAProxy knows it. */
  async hasAnswered(): Promise<void> {
    const { process } = this;
    if (!process) throw new Error('The instance does not run.');
    const before = process.output.length;
    await eventually(() => process.output.includes('"userId":', before));
  }

  /** As an orchestrator does. @returns the exit code */
  stop(): Promise<number | null | undefined> {
    this.signal('SIGTERM');
    return Promise.resolve(this.process?.exit);
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.process?.exit;
  }

  signal(name: NodeJS.Signals): void {
    this.process?.signal(name);
  }
}

/** Apps that read and send without a break. */
class Load {
  /** Requests of all apps, and the tries that an app repeated by itself. */
  requests = 0;
  repeats = 0;
  readonly failures: string[] = [];
  private readonly underWay = new Set<Promise<unknown>>();
  private sending = 0;
  private over = false;

  /** @param uploaded the pictures of all loads so far */
  constructor(
    private readonly baseUrl: string,
    private readonly token: () => string,
    readonly uploaded: Image[],
  ) {}

  /** Runs the apps while work is done. */
  async while(work: () => Promise<void>): Promise<void> {
    const apps = [
      ...Array.from({ length: READERS }, () => this.repeat((app) => this.read(app))),
      ...Array.from({ length: SENDERS }, () => this.repeat((app) => this.upload(app))),
    ];
    try {
      await work();
    } finally {
      this.over = true;
      await Promise.all(apps);
    }
  }

  /** Resolves while an upload is under way. */
  isSending(): Promise<boolean> {
    return eventually(() => this.sending > 0);
  }

  /** Resolves when all that is under way has ended. */
  async allEnd(): Promise<void> {
    await Promise.all(this.underWay);
  }

  /** Resolves after further uploads and reads. */
  async goesOn(): Promise<void> {
    const [requests, uploads] = [this.requests + 200, this.uploaded.length + 5];
    await eventually(() => this.requests >= requests && this.uploaded.length >= uploads);
  }

  private async repeat(act: (app: ChatImages) => Promise<unknown>): Promise<void> {
    while (!this.over) {
      let tries = 0;
      // A new one each time: it would answer from its memory.
      const app = new ChatImages({
        baseUrl: this.baseUrl,
        token: this.token,
        timing: { firstPauseMs: 100, readTimeoutMs: 12_000, uploadTimeoutMs: 12_000 },
        send: (request) => {
          tries += 1;
          return send(request);
        },
      });
      this.requests += 1;
      const acted = act(app).catch((error: unknown) => void this.failures.push(String(error)));
      this.underWay.add(acted);
      await acted;
      this.underWay.delete(acted);
      this.repeats += tries - 1;
    }
  }

  private async upload(app: ChatImages): Promise<void> {
    this.sending += 1;
    try {
      const bytes = new Uint8Array(await picture('png', 128, 96));
      this.uploaded.push(await app.upload(new File([bytes], 'photo.png'), { appointmentId: APPOINTMENT }));
    } finally {
      this.sending -= 1;
    }
  }

  /** Lists the chat, or asks for the URL of a picture. */
  private async read(app: ChatImages): Promise<void> {
    const image = this.uploaded[this.requests % this.uploaded.length];
    if (!image || this.requests % 2 === 0) await app.list(APPOINTMENT, { limit: 10 });
    else await app.url(image);
  }
}
