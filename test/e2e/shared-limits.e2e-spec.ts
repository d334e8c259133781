import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { resolve } from 'node:path';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { checkRedis } from '../../src/check/redis-check.js';
import { loadSettings, type Settings } from '../../src/config/settings.js';
import { freePort } from '../../src/dev/embedded-postgres.js';
import type { ReadinessDto } from '../../src/health/health.controller.js';
import { createLogger } from '../../src/observability/logger.js';
import { KEY_PREFIX, type RedisState, SharedRedis } from '../../src/rate-limits/shared-redis.js';
import { createApp } from '../../src/server.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { hasRedis, RedisServer } from '../support/redis-server.js';
import { DOCTOR, PATIENT, TEST_ENVIRONMENT, TestApp } from '../support/test-app.js';

type Line = {
  readonly backend?: string;
  readonly level: string;
  readonly reason?: string;
  readonly msg: string;
};

const AWAY = 'redis is away: this process counts rate limits by itself';
const BACK = 'redis is back: rate limits are shared again';

let test: TestApp;
let imageId: number;

beforeAll(async () => {
  test = await TestApp.start();
  const response = await test.upload(await picture('png'));
  imageId = ((await response.json()) as UploadedChatImageResponseDto).data.id;
});

afterAll(() => test.stop());

/** The settings of an instance on the same database and storage. */
async function settingsOf(environment: NodeJS.ProcessEnv): Promise<Settings> {
  const { appUrl, database, storage } = test.settings;
  return loadSettings({
    ...TEST_ENVIRONMENT,
    PORT: String(await freePort()),
    APP_URL: appUrl,
    DATABASE_URL: database.url,
    DATABASE_POOL_SIZE: '4',
    LOCAL_STORAGE_DIR: storage.driver === 'local' ? storage.directory : undefined,
    ...environment,
  });
}

/** An instance of the service, beside others on the same database. */
class Instance {
  private readonly lines: string[] = [];

  private constructor(
    private readonly app: NestExpressApplication,
    readonly url: string,
    lines: string[],
  ) {
    this.lines = lines;
  }

  static async start(environment: NodeJS.ProcessEnv): Promise<Instance> {
    const settings = await settingsOf(environment);
    const { port } = settings;
    const lines: string[] = [];
    const destination = { write: (line: string): void => void lines.push(line) };
    const app = await createApp(settings, createLogger('info', { destination }));
    await app.listen(port, '127.0.0.1');
    return new Instance(app, `http://127.0.0.1:${port}`, lines);
  }

  async stop(): Promise<void> {
    this.app.getHttpServer().closeAllConnections();
    await this.app.close();
  }

  get state(): RedisState {
    return this.app.get(SharedRedis).state;
  }

  /** The log lines about Redis. */
  get redisLines(): readonly Line[] {
    return this.lines.map((line) => JSON.parse(line) as Line).filter(({ backend }) => backend === 'redis');
  }

  becomes(state: RedisState): Promise<unknown> {
    return eventually(() => this.state === state, `redis to be ${state}`);
  }

  async signedUrl(as = PATIENT): Promise<number> {
    return (await this.ask(`/api/chat-images/${imageId}/signed-url`, as)).status;
  }

  ask(path: string, as?: number): Promise<Response> {
    return fetch(`${this.url}${path}`, {
      headers: as === undefined ? {} : { authorization: `Bearer ${test.token(as)}` },
    });
  }

  async readiness(): Promise<readonly [number, ReadinessDto]> {
    const response = await this.ask('/api/health/ready');
    return [response.status, (await response.json()) as ReadinessDto];
  }
}

/** Requests that go on over several instances, until they are stopped. */
class Load {
  private readonly counts = new Map<number, number>();
  private readonly workers: Promise<void>[];
  private stopped = false;
  private answered = 0;

  constructor(instances: readonly Instance[]) {
    this.workers = Array.from({ length: 12 }, async (_, index) => {
      while (!this.stopped) {
        const status = (await instances[index % instances.length]?.signedUrl()) ?? 0;
        this.counts.set(status, (this.counts.get(status) ?? 0) + 1);
        this.answered += 1;
      }
    });
  }

  async more(requests = 100): Promise<void> {
    const goal = this.answered + requests;
    await eventually(() => this.answered >= goal, `${requests} more answers`);
  }

  /** @returns the statuses of all answers */
  async stop(): Promise<readonly number[]> {
    this.stopped = true;
    await Promise.all(this.workers);
    return [...this.counts.keys()];
  }
}

const times = <T>(count: number, work: (index: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => work(index)));

const countOf = (statuses: readonly number[], status: number): number =>
  statuses.filter((each) => each === status).length;

it('without REDIS_URL a process counts by itself, and says nothing of Redis', async () => {
  const instance = await Instance.start({ RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '3' });
  try {
    expect(instance.state).toBe('off');
    const statuses = await times(5, () => instance.signedUrl());
    expect([countOf(statuses, 200), countOf(statuses, 429)]).toEqual([3, 2]);
    const [status, body] = await instance.readiness();
    expect([status, Object.keys(body).toSorted()]).toEqual([200, ['message', 'status', 'timestamp']]);
    expect(instance.redisLines).toEqual([]);
  } finally {
    await instance.stop();
  }
});

(hasRedis() ? describe : describe.skip)('with Redis', () => {
  let redis: RedisServer;
  let instances: Instance[];

  beforeAll(async () => {
    redis = await RedisServer.start();
  });

  afterAll(() => redis.stop());

  beforeEach(async () => {
    instances = [];
    await redis.client.flushall();
  });

  afterEach(async () => {
    for (const instance of instances) await instance.stop();
  });

  const start = async (count: number, environment: NodeJS.ProcessEnv = {}): Promise<readonly Instance[]> => {
    instances = await times(count, () => Instance.start({ REDIS_URL: redis.url, ...environment }));
    return instances;
  };

  /** A busy machine needs longer than the default, which is for production. */
  const PATIENCE = { REDIS_TIMEOUT_MS: '10000' };

  describe('three instances', () => {
    const one = (index: number): Instance => {
      const instance = instances[index % instances.length];
      if (!instance) throw new Error('There is no instance.');
      return instance;
    };

    it('give a user one budget, exactly', async () => {
      await start(3, { ...PATIENCE, RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '40' });
      const statuses = await times(300, (index) => one(index).signedUrl());
      expect([countOf(statuses, 200), countOf(statuses, 429)]).toEqual([40, 260]);
      // Another user has a budget of their own.
      expect(await one(0).signedUrl(DOCTOR)).toBe(200);
      const refused = await one(1).ask(`/api/chat-images/${imageId}/signed-url`, PATIENT);
      const seconds = Number(refused.headers.get('retry-after'));
      expect([refused.status, seconds > 0, seconds <= 60]).toEqual([429, true, true]);
      expect(instances.map(({ state, redisLines }) => [state, redisLines])).toEqual(
        instances.map(() => ['up', []]),
      );
    });

    it('begin the budget anew together, when Redis lets it expire', async () => {
      await start(3, { ...PATIENCE, RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '2' });
      expect(await times(3, (index) => one(index).signedUrl())).toContain(429);
      const key = `${KEY_PREFIX}:signed-urls:${PATIENT}`;
      await redis.client.pexpire(key, 1);
      await eventually(async () => (await redis.client.exists(key)) === 0);
      expect(await times(2, (index) => one(index).signedUrl())).toEqual([200, 200]);
      expect(await one(2).signedUrl()).toBe(429);
    });

    it('count a batch as its URLs, and a refused batch as one', async () => {
      await start(3, { ...PATIENCE, RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '20' });
      const post = async (index: number, count: number): Promise<number> => {
        const response = await fetch(`${one(index).url}/api/chat-images/signed-urls`, {
          method: 'POST',
          headers: { authorization: `Bearer ${test.token(PATIENT)}`, 'content-type': 'application/json' },
          body: JSON.stringify({ ids: Array.from({ length: count }, (_, id) => id + 1) }),
        });
        return response.status;
      };
      expect(await post(0, 16)).toBe(200);
      expect(await post(1, 100)).toBe(429);
      expect(await post(2, 3)).toBe(200);
      expect(await post(0, 1)).toBe(429);
    });

    it('count a network without a valid token once', async () => {
      await start(3, { ...PATIENCE, RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '10' });
      const statuses = await times(30, async (index) => (await one(index).ask('/nowhere')).status);
      expect([countOf(statuses, 404), countOf(statuses, 429)]).toEqual([10, 20]);
    });

    it('leave keys of their own that expire, and touch no other', async () => {
      await redis.client.set('laravel_cache:users:1', 'theirs');
      await redis.client.hset('signed-urls:1', 'points', '7');
      await start(3, { ...PATIENCE, RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '2' });
      await times(9, (index) => one(index).signedUrl());
      await times(3, (index) => one(index).ask('/nowhere'));
      // Written by somebody else, and so without an end.
      await redis.client.set(`${KEY_PREFIX}:signed-urls:${DOCTOR}`, '1');
      await one(0).signedUrl(DOCTOR);
      const { 'laravel_cache:users:1': theirs, 'signed-urls:1': hash, ...ours } = await redis.keys();
      expect([theirs, hash]).toEqual([-1, -1]);
      expect(await redis.client.get('laravel_cache:users:1')).toBe('theirs');
      expect(await redis.client.hgetall('signed-urls:1')).toEqual({ points: '7' });
      expect(Object.keys(ours).filter((key) => !key.endsWith(':probe'))).toEqual([
        `${KEY_PREFIX}:signed-urls:${PATIENT}`,
        `${KEY_PREFIX}:signed-urls:${DOCTOR}`,
        `${KEY_PREFIX}:unauthenticated:127.0.0.1`,
      ]);
      for (const life of Object.values(ours)) {
        expect(life).toBeGreaterThan(0);
        expect(life).toBeLessThanOrEqual(60_000);
      }
    });
  });

  describe('away under load', () => {
    it.each([
      ['killed', () => redis.kill(), () => redis.resume()],
      [
        'that hangs',
        () => Promise.resolve(redis.signal('SIGSTOP')),
        () => Promise.resolve(redis.signal('SIGCONT')),
      ],
      [
        'that takes no writes',
        () => redis.client.replicaof('127.0.0.1', '1'),
        () => redis.client.replicaof('NO', 'ONE'),
      ],
    ])(
      'a Redis %s refuses nobody, is logged once, and is used again when it is back',
      async (_, leave, back) => {
        await start(3, { REDIS_TIMEOUT_MS: '1000' });
        const load = new Load(instances);
        try {
          await load.more();
          await leave();
          for (const instance of instances) await instance.becomes('away');
          // Would take longer than the test may, if each request waited for Redis.
          await load.more(1800);
          for (const instance of instances) {
            expect(await instance.readiness()).toMatchObject([200, { status: 'ok', redis: 'away' }]);
            expect(instance.redisLines.map(({ level, msg }) => [level, msg])).toEqual([['error', AWAY]]);
          }
        } finally {
          await back();
        }
        for (const instance of instances) await instance.becomes('up');
        await load.more();
        expect(await load.stop()).toEqual([200]);
        for (const instance of instances) {
          expect(await instance.readiness()).toMatchObject([200, { status: 'ok', redis: 'up' }]);
          expect(instance.redisLines.map(({ msg }) => msg)).toEqual([AWAY, BACK]);
        }
        expect(await redis.keys()).toHaveProperty([`${KEY_PREFIX}:signed-urls:${PATIENT}`]);
      },
    );

    it('each process gives the budget by itself, as without Redis', async () => {
      await start(2, { RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '5' });
      await redis.kill();
      try {
        for (const instance of instances) {
          await instance.becomes('away');
          const statuses = await times(9, () => instance.signedUrl());
          expect([countOf(statuses, 200), countOf(statuses, 429)]).toEqual([5, 4]);
        }
      } finally {
        await redis.resume();
      }
    });

    it('at the start does not keep the service from starting', async () => {
      await redis.kill();
      try {
        const [instance] = await start(1);
        expect(await instance?.signedUrl()).toBe(200);
        expect(await instance?.readiness()).toMatchObject([200, { redis: 'away' }]);
        expect(instance?.redisLines).toMatchObject([{ msg: AWAY, reason: 'ECONNREFUSED' }]);
      } finally {
        await redis.resume();
      }
      await instances[0]?.becomes('up');
    });

    it('for a wrong password is named in the log, without the password', async () => {
      const url = new URL(redis.url);
      url.password = 'not the password';
      const [instance] = await start(1, { REDIS_URL: url.href });
      expect(await instance?.signedUrl()).toBe(200);
      expect(instance?.redisLines).toMatchObject([{ msg: AWAY, reason: 'WRONGPASS' }]);
      expect(JSON.stringify(instance?.redisLines)).not.toContain('not');
    });
  });

  it('a database that Redis does not have is not replaced by another', async () => {
    const [instance] = await start(1, { ...PATIENCE, REDIS_URL: redis.url.replace(/\/0$/, '/99') });
    expect(await instance?.signedUrl()).toBe(200);
    expect(instance?.redisLines).toMatchObject([{ msg: AWAY, reason: 'ERR' }]);
    expect(Object.keys(await redis.keys()).filter((key) => !key.endsWith(':probe'))).toEqual([]);
  });

  describe('over TLS', () => {
    let secure: RedisServer;

    beforeAll(async () => {
      secure = await RedisServer.start({ tls: true });
    });

    afterAll(() => secure.stop());

    it('works with the certificate authority of REDIS_CA_CERT', async () => {
      const [instance] = await start(1, { REDIS_URL: secure.url, REDIS_CA_CERT: resolve('test/tls/ca.pem') });
      await instance?.becomes('up');
      expect(await instance?.signedUrl()).toBe(200);
      expect(await secure.keys()).toHaveProperty([`${KEY_PREFIX}:signed-urls:${PATIENT}`]);
    });

    it('is checked by npm run check', async () => {
      const findings = async (environment: NodeJS.ProcessEnv): Promise<readonly string[]> => {
        const lines: string[] = [];
        for await (const { name, status, message } of checkRedis(await settingsOf(environment)))
          lines.push(`${name} ${status}: ${message}`);
        return lines;
      };
      expect(await findings({})).toEqual([]);
      expect(
        await findings({ ...PATIENCE, REDIS_URL: secure.url, REDIS_CA_CERT: resolve('test/tls/ca.pem') }),
      ).toEqual(['redis ok: counts rate limits for all instances together']);
      expect(await findings({ ...PATIENCE, REDIS_URL: secure.url })).toEqual([
        expect.stringMatching(/^redis warning: .*SELF_SIGNED_CERT_IN_CHAIN.*: set REDIS_CA_CERT/),
      ]);
      const url = new URL(redis.url);
      url.password = 'not the password';
      expect(await findings({ ...PATIENCE, REDIS_URL: url.href })).toEqual([
        'redis warning: does not count (WRONGPASS), so each process counts by itself: check the user and password in REDIS_URL',
      ]);
    });

    it('trusts no unknown authority', async () => {
      const [instance] = await start(1, { REDIS_URL: secure.url });
      expect(await instance?.signedUrl()).toBe(200);
      expect(instance?.redisLines).toMatchObject([{ msg: AWAY, reason: 'SELF_SIGNED_CERT_IN_CHAIN' }]);
    });
  });
});
