import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { UploadBudget } from '../../src/uploads/upload-budget.js';
import type { Fault } from '../support/cutting-proxy.js';
import { eventually } from '../support/eventually.js';
import { Client, form } from '../support/raw-clients.js';
import { DOCTOR, PATIENT } from '../support/test-app.js';
import { expectFailure, newPicture, TwoInstances } from '../support/two-instances.js';
import { describeFault } from './upload-fault.js';

describe('uploads, when the database fails', () => {
  let instances: TwoInstances;

  beforeAll(async () => {
    instances = await TwoInstances.start('database', {});
  });

  afterEach(() => instances.endFault());

  afterAll(() => instances.stop());

  describe.each<[step: string, fault: Fault, onlyWithKey?: boolean]>([
    ['at every connection', { how: 'refuse' }],
    ['at the look-up of the user', { how: 'cut before', at: 'find-user' }],
    ['at the look-up of the conversation', { how: 'cut before', at: 'decide-conversation' }],
    ['before the claim is written', { how: 'cut before', at: 'claim-upload' }],
    ['after the claim is written', { how: 'cut after', at: 'claim-upload' }],
    ['at the BEGIN of the transaction of a key', { how: 'cut before', at: 'BEGIN' }, true],
    ["at the key's lock", { how: 'cut after', at: 'lock-upload-key' }, true],
    ['at the insert of the key', { how: 'cut before', at: 'remember-upload-key' }, true],
    ["before the key's COMMIT", { how: 'cut before', at: 'COMMIT' }, true],
    ["after the key's COMMIT", { how: 'cut after', at: 'COMMIT' }, true],
    ['before the row becomes stored', { how: 'cut before', at: 'commit-stored' }],
    ['after the row became stored', { how: 'cut after', at: 'commit-stored' }],
  ])('%s', (_step, fault, onlyWithKey) => {
    describeFault(() => instances, fault, {
      code: 'DATABASE_UNAVAILABLE',
      ...(onlyWithKey === undefined ? {} : { onlyWithKey }),
    });
  });

  it('get no URL without its audit row, also for a duplicate', async () => {
    const bytes = await newPicture();
    const first = await instances.expectReadable(await instances.upload(bytes));
    const before = await instances.audits(first.id);
    instances.proxy.fail({ how: 'cut before', at: 'decide-images' });
    expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    expect(await instances.audits(first.id)).toEqual(before);
    instances.proxy.pass();
    expect((await instances.upload(bytes)).data?.id).toBe(first.id);
    expect(await instances.audits(first.id)).toHaveLength(before.length + 1);
  });

  /** Uses every connection of the connection pool several times. */
  async function expectManyUploadsWork(): Promise<void> {
    const pictures = await Promise.all(Array.from({ length: 12 }, newPicture));
    const answers = await Promise.all(pictures.map((bytes) => instances.upload(bytes)));
    for (const answer of answers) await instances.expectReadable(answer);
    for (const bytes of pictures) expect(await instances.rowsOf(bytes)).toMatchObject([{ state: 'stored' }]);
  }

  it('get 503 at the statement timeout, and work afterwards', async () => {
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'claim-upload' });
    expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    instances.proxy.pass();
    await expectManyUploadsWork();
    await instances.expectReadable(await instances.upload(bytes));
    await instances.expectTidyAfterSweep();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  it('do not reuse a connection that has stopped answering', async () => {
    const { id } = await instances.expectReadable(await instances.upload(await newPicture()));
    instances.proxy.fail({ how: 'hold', at: 'claim-upload' });
    expectFailure(await instances.upload(await newPicture()), 503, 'DATABASE_UNAVAILABLE');
    // Only one connection is held. A pool that kept it would give it to some of these requests.
    const statuses = await Promise.all(
      Array.from({ length: 12 }, async () => {
        const path = `${instances.url}/api/chat-images/${id}/signed-url`;
        return (await fetch(path, { headers: instances.headers(DOCTOR) })).status;
      }),
    );
    expect(statuses.filter((status) => status !== 200)).toEqual([]);
  });

  it('get 503 when the database server is stopped during a claim, and work afterwards', async () => {
    const { database, postgres } = instances.healthy;
    const bytes = await newPicture();
    const [postmaster] = (await readFile(join(postgres.directory, 'postmaster.pid'), 'utf8')).split('\n');
    // The INSERT waits for this lock, so that the server can be stopped during it.
    const blocker = database.createQueryRunner();
    await blocker.startTransaction();
    await blocker.query('LOCK TABLE chat_images IN EXCLUSIVE MODE');
    const upload = instances.upload(bytes);
    const pids = await eventually(async () => {
      const backends = await database.query<{ pid: number; waits: boolean }[]>(
        `SELECT pid, wait_event_type = 'Lock' AND query LIKE '/* claim-upload */%' AS waits
         FROM pg_stat_activity WHERE backend_type = 'client backend'`,
      );
      return backends.some(({ waits }) => waits) ? backends.map(({ pid }) => pid) : undefined;
    });
    const processes = [Number(postmaster), ...pids];
    for (const pid of processes) process.kill(pid, 'SIGSTOP');
    try {
      expectFailure(await upload, 503, 'DATABASE_UNAVAILABLE');
      expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    } finally {
      for (const pid of processes) process.kill(pid, 'SIGCONT');
    }
    await blocker.rollbackTransaction();
    await blocker.release();
    await expectManyUploadsWork();
    await instances.expectReadable(await instances.upload(bytes));
    await instances.expectTidyAfterSweep();
    expect(await instances.rowsOf(bytes)).toHaveLength(1);
  });

  describe('and whose client disconnects', () => {
    /** Sends this share of an upload. */
    async function begin(bytes: Buffer, share: number): Promise<Client> {
      const client = new Client(instances.healthy, instances.port);
      const body = form(bytes);
      await client.send(client.head({ as: PATIENT, headers: [`Content-Length: ${body.length}`] }));
      await client.send(body.subarray(0, body.length * share));
      return client;
    }

    it.each<[how: string, go: (socket: Socket) => void]>([
      ['with FIN', (socket) => void socket.end()],
      ['with RST', (socket) => void socket.resetAndDestroy()],
    ])('leave nothing in mid-upload, %s, and a retry works', async (_how, go) => {
      const bytes = await newPicture();
      const budget = instances.faulty.get(UploadBudget);
      const { socket } = await begin(bytes, 0.5);
      await eventually(() => budget.inUse > 0);
      // The memory is released at once, not only at the timeout of the connection.
      try {
        go(socket);
        await eventually(() => budget.inUse === 0);
      } finally {
        socket.destroy();
      }
      expect(await instances.rowsOf(bytes)).toEqual([]);
      await instances.expectTidyAfterSweep();
      await instances.expectReadable(await instances.upload(bytes));
    });

    it('are stored after the whole body was sent, and a retry returns that image', async () => {
      const bytes = await newPicture();
      instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
      const { socket } = await begin(bytes, 1);
      await eventually(() => instances.proxy.hits > 0);
      socket.resetAndDestroy();
      instances.proxy.pass();
      const row = await eventually(async () =>
        (await instances.rowsOf(bytes)).find((r) => r.state === 'stored'),
      );
      const { id } = await instances.expectReadable(await instances.upload(bytes));
      expect(id).toBe(row.id);
    });
  });
});

describe('uploads, when the database server stops during an upload', () => {
  it('are answered 503, and the service keeps running', async () => {
    const instances = await TwoInstances.start('database', {});
    const bytes = await newPicture();
    instances.proxy.fail({ how: 'hold', at: 'commit-stored' });
    const upload = instances.upload(bytes);
    await eventually(() => instances.proxy.hits > 0);
    await instances.healthy.postgres.stop();
    instances.proxy.pass();
    expectFailure(await upload, 503, 'DATABASE_UNAVAILABLE');
    expectFailure(await instances.upload(bytes), 503, 'DATABASE_UNAVAILABLE');
    expect((await fetch(`${instances.url}/api/health`)).status).toBe(200);
    await instances.stop();
  });
});
