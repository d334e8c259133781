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

/** Nearly all of a large file, with nothing behind it. */
const STALLED_FILE = Buffer.alloc(9.9 * MIB);

/** Where the file is first nothing is authorised before the end. */
const ORDERS: readonly [order: string, head: (appointment: number) => Buffer][] = [
  ['with the file first', () => Buffer.from(FILE_HEAD)],
  ['with the appointment first', (appointment) => form(Buffer.alloc(0), appointment).subarray(0, -9)],
];

/** Sends nearly all of a large upload and stands still. */
async function stall(client: Client, user: number, head: Buffer): Promise<Client> {
  await client.send(client.head({ as: user, headers: [`Content-Length: ${10 * MIB}`] }));
  // Not waited for: what finds no room is not read.
  client.socket.write(head);
  client.socket.write(STALLED_FILE);
  return client;
}

describe('a user whose uploads stand still', () => {
  const clients = new Clients();
  let test: TestApp;
  let photo: Buffer;

  beforeAll(async () => {
    // Nothing that stands still is given up while another's uploads are looked at.
    test = await TestApp.start({ UPLOAD_SLOW_SECONDS: '120', UPLOAD_WAIT_MS: '120000' });
    photo = await picture('png');
  });

  afterEach(() => clients.close(test));

  afterAll(() => test.stop());

  /** That another user's uploads go on, small and as large as may be, while those that stand still hold what they can. */
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
    it.each([6, 60])('keeps nobody out with %d connections', async (count) => {
      const stalled = await Promise.all(
        Array.from({ length: count }, () => stall(clients.connect(test), PATIENT, head(145))),
      );
      await eventually(() => inUse(test) >= 49 * MIB, 'a stalled file to be received');
      await expectOthersGoOn(stalled);
      expect(inUse(test)).toBeLessThanOrEqual(128 * MIB);
    });
  });

  it('keeps nothing of its share for a client that left before its upload was begun', async () => {
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

  it.each([6, 60])('and who takes part in nothing keeps nobody out with %d', async (count) => {
    const stalled = await Promise.all(
      Array.from({ length: count }, () => stall(clients.connect(test), OUTSIDER, Buffer.from(FILE_HEAD))),
    );
    await eventually(() => inUse(test) >= 49 * MIB, 'a stalled file to be received');
    await expectOthersGoOn(stalled);
    // One picture's.
    expect(inUse(test)).toBeLessThanOrEqual(52 * MIB);
  });
});

describe('an upload that comes too slowly', () => {
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

  it.each([0, 1, MIB])('is answered, and loses its memory, when it stops after %d bytes', async (bytes) => {
    const client = clients.connect(test);
    await client.send(client.head({ as: PATIENT, headers: [`Content-Length: ${2 * MIB}`] }));
    if (bytes > 0) await client.send(Buffer.concat([Buffer.from(FILE_HEAD), Buffer.alloc(bytes)]));
    await expectTooSlow(client);
  });

  it('is answered when it trickles', async () => {
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

  it('goes on when it is as fast as a phone over 2G', async () => {
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

  it('frees the share of its user for the uploads that waited for it', async () => {
    const stalled = await Promise.all(
      Array.from({ length: 3 }, () => stall(clients.connect(test), PATIENT, Buffer.from(FILE_HEAD))),
    );
    const answers: Answer[] = [];
    for (const client of stalled) answers.push(await client.answer());
    // One took the share; the others, which waited in vain, were not read.
    expect(answers.map(({ status }) => status).sort()).toEqual([422, 429, 429]);
    for (const answer of answers.filter(({ status }) => status === 429))
      expectRefusal(answer, 429, 'TOO_MANY_REQUESTS');
    const answer = await clients.connect(test).ask({ as: PATIENT }, form(photo));
    expect(answer.status).toBe(200);
  });

  /** Some tens of kilobytes, so that it takes longer than a slow upload may. */
  const largePng = async (): Promise<Buffer> => picture('png', 140, 140);
});
