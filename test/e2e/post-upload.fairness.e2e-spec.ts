import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { Socket } from 'node:net';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import {
  type Answer,
  type Client,
  Clients,
  expectRefusal,
  FILE_HEAD,
  form,
  formFileFirst,
  inUse,
  MIB,
  serverOf,
} from '../support/raw-clients.js';
import { OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

/** Nearly all of a large file, without the end of the form. */
const STALLED_FILE = Buffer.alloc(9.9 * MIB);

/** When the file comes first, the permission is checked only at the end. */
const ORDERS: readonly [order: string, head: (appointment: number) => Buffer][] = [
  ['with the file first', () => Buffer.from(FILE_HEAD)],
  ['with the appointment first', (appointment) => form(Buffer.alloc(0), appointment).subarray(0, -9)],
];

/** Sends nearly all of a large upload, and then stops. */
async function stall(client: Client, user: number, head: Buffer): Promise<Client> {
  await client.send(client.head({ as: user, headers: [`Content-Length: ${10 * MIB}`] }));
  // This does not wait, as an upload without memory is not read.
  client.socket.write(head);
  client.socket.write(STALLED_FILE);
  return client;
}

describe('a user with stalled uploads', () => {
  const clients = new Clients();
  let test: TestApp;
  let photo: Buffer;

  beforeAll(async () => {
    // The timeouts are long, so that stalled uploads do not end during a test.
    test = await TestApp.start({ UPLOAD_SLOW_SECONDS: '120', UPLOAD_WAIT_MS: '120000' });
    photo = await picture('png');
  });

  afterEach(() => clients.close(test));

  afterAll(() => test.stop());

  /** Expects that small and large uploads of another user work while the stalled uploads go on. */
  async function expectOthersGoOn(stalled: readonly Client[]): Promise<void> {
    const patient = await test.addPatient();
    for (const toForm of [form, formFileFirst]) {
      const answer = await clients.connect(test).ask({ as: patient }, toForm(photo, patient));
      expect([answer.status, answer.body]).toEqual([200, expect.stringContaining('"success":true')]);
      const large = await clients.connect(test).ask({ as: patient }, toForm(Buffer.alloc(10 * MIB), patient));
      expectRefusal(large, 422, 'INVALID_IMAGE');
    }
    expect(stalled.filter((client) => client.ended || client.take() !== undefined)).toEqual([]);
  }

  describe.each(ORDERS)('%s', (_order, head) => {
    it.each([6, 60])('does not block other users with %d connections', async (count) => {
      const stalled = await Promise.all(
        Array.from({ length: count }, () => stall(clients.connect(test), PATIENT, head(145))),
      );
      await eventually(() => inUse(test) >= 49 * MIB, 'a stalled file to be received');
      await expectOthersGoOn(stalled);
      expect(inUse(test)).toBeLessThanOrEqual(128 * MIB);
    });
  });

  it('gets the memory back when a client disconnects before its upload begins', async () => {
    const accepted: Socket[] = [];
    serverOf(test).once('connection', (socket: Socket) => accepted.push(socket));
    const holder = test.database.createQueryRunner();
    await holder.startTransaction();
    try {
      await holder.query('LOCK TABLE users IN ACCESS EXCLUSIVE MODE');
      const gone = clients.connect(test);
      await gone.send(gone.head({ as: PATIENT, headers: ['Transfer-Encoding: chunked'] }));
      for (let held = false; !held;) {
        const rows = await test.database.query<unknown[]>(
          `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%find-user%'`,
        );
        held = rows.length > 0;
      }
      gone.socket.resetAndDestroy();
      await eventually(() => accepted[0]?.destroyed === true, 'the server to hear of it');
    } finally {
      await holder.rollbackTransaction();
      await holder.release();
    }
    const large = form(Buffer.alloc(10 * MIB));
    expectRefusal(await clients.connect(test).ask({ as: PATIENT }, large), 422, 'INVALID_IMAGE');
  });

  it.each([6, 60])('does not block other users as an outsider with %d connections', async (count) => {
    const stalled = await Promise.all(
      Array.from({ length: count }, () => stall(clients.connect(test), OUTSIDER, Buffer.from(FILE_HEAD))),
    );
    await eventually(() => inUse(test) >= 49 * MIB, 'a stalled file to be received');
    await expectOthersGoOn(stalled);
    // The memory of one picture is in use.
    expect(inUse(test)).toBeLessThanOrEqual(52 * MIB);
  });
});

describe('a slow upload', () => {
  const clients = new Clients();
  let test: TestApp;
  let photo: Buffer;

  beforeAll(async () => {
    test = await TestApp.start({ UPLOAD_SLOW_SECONDS: '1', UPLOAD_WAIT_MS: '500' });
    photo = await picture('png');
  });

  afterEach(() => clients.close(test));

  afterAll(() => test.stop());

  async function expectTooSlow(client: Client): Promise<void> {
    const answer = await client.answer();
    expectRefusal(answer, 422, 'VALIDATION_FAILED');
    expect((JSON.parse(answer.body) as ErrorBodyDto).message).toMatch(/too slowly.*again/);
    expect(answer.headers.get('connection')).toBe('close');
    await eventually(() => inUse(test) === 0, 'its memory to be given back');
    await eventually(() => client.ended, 'the end of the connection');
    expect(client.error).toBeUndefined();
  }

  it.each([0, 1, MIB])(
    'is answered 422 and releases its memory when it stops after %d bytes',
    async (bytes) => {
      const client = clients.connect(test);
      await client.send(client.head({ as: PATIENT, headers: [`Content-Length: ${2 * MIB}`] }));
      if (bytes > 0) await client.send(Buffer.concat([Buffer.from(FILE_HEAD), Buffer.alloc(bytes)]));
      await expectTooSlow(client);
    },
  );

  it('is answered 422 when it sends a byte every 50 ms', async () => {
    const client = clients.connect(test);
    await client.send(client.head({ as: PATIENT, headers: [`Content-Length: ${2 * MIB}`] }));
    await client.send(FILE_HEAD);
    const trickle = setInterval(() => client.socket.write('x'), 50);
    try {
      await expectTooSlow(client);
    } finally {
      clearInterval(trickle);
    }
  });

  it('is stored when it is as fast as a phone over 2G', async () => {
    const client = clients.connect(test);
    const body = form(await largePng());
    await client.send(client.head({ as: PATIENT, headers: [`Content-Length: ${body.length}`] }));
    let sent = 0;
    const pace = setInterval(() => client.socket.write(body.subarray(sent, (sent += 1024))), 1000 / 12);
    try {
      await eventually(() => sent >= body.length, 'the whole form to be sent', 15_000);
      expect((await client.answer()).status).toBe(200);
    } finally {
      clearInterval(pace);
    }
  });

  it('releases the memory share of its user for the next upload', async () => {
    const stalled = await Promise.all(
      Array.from({ length: 3 }, () => stall(clients.connect(test), PATIENT, Buffer.from(FILE_HEAD))),
    );
    const answers: Answer[] = [];
    for (const client of stalled) answers.push(await client.answer());
    // One upload took the share; the others waited for it and were not read.
    expect(answers.map(({ status }) => status).sort()).toEqual([422, 429, 429]);
    for (const answer of answers.filter(({ status }) => status === 429))
      expectRefusal(answer, 429, 'TOO_MANY_REQUESTS');
    const answer = await clients.connect(test).ask({ as: PATIENT }, form(photo));
    expect(answer.status).toBe(200);
  });

  /** Tens of kilobytes, so that the upload takes longer than UPLOAD_SLOW_SECONDS. */
  const largePng = async (): Promise<Buffer> => picture('png', 140, 140);
});
