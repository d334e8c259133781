import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { accessStatements } from '../../src/access/permission-rule.js';
import { RequestDatabase } from '../../src/database/request-database.js';
import { boundUnanswered, MAX_UNANSWERED } from '../../src/http/pipelined-requests.js';
import { EVERY_USER } from '../../src/conversations/user-columns.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { Clients, form, inUse } from '../support/raw-clients.js';
import { DOCTOR, PATIENT, TestApp } from '../support/test-app.js';

const { decideImages: DECIDE_IMAGES } = accessStatements(EVERY_USER, false);

const REQUESTS = 5000;

/** The bytes that Node reads at once. */
const READ_BYTES = 64 * 1024;

describe('pipelined requests on one connection', () => {
  let server: Server;
  /** The length of each request. */
  let length: number;
  let begun: number;
  let answered: number;
  let mostUnanswered: number;
  /** The most bytes that were read of requests that had not begun. */
  let mostReadAhead: number;

  beforeEach(async () => {
    begun = answered = mostUnanswered = mostReadAhead = 0;
    server = createServer(
      boundUnanswered((request, response) => {
        begun += 1;
        mostUnanswered = Math.max(mostUnanswered, begun - answered);
        mostReadAhead = Math.max(mostReadAhead, request.socket.bytesRead - begun * length);
        void text(request)
          // The response waits, so that later requests could begin before it.
          .then((body) => setTimeout(1, body))
          .then((body) => {
            answered += 1;
            response.end(`${request.url ?? ''} ${body.length}\n`);
          });
      }),
    ).listen(0, '127.0.0.1');
    await once(server, 'listening');
  });

  afterEach(() => {
    server.closeAllConnections();
    server.close();
  });

  it.each([
    [REQUESTS, 0],
    [REQUESTS, 40],
    [50, 100_000],
  ])('are answered in order: %d requests with bodies of %d bytes', async (count, bodyLength) => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const names = Array.from({ length: count }, (_, index) => `/${String(index).padStart(5, '0')}`);
    const requests = names.map(
      (name) =>
        `POST ${name} HTTP/1.1\r\nHost: a\r\nContent-Length: ${bodyLength}\r\n\r\n${'x'.repeat(bodyLength)}`,
    );
    length = requests[0]?.length ?? 0;
    let answers = '';
    socket.on('data', (chunk) => (answers += String(chunk)));
    socket.write(requests.join(''));
    await eventually(
      () => answered === count && answers.includes(`${names.at(-1) ?? ''} `),
      'all answers',
      20_000,
    );
    expect(answers.match(/^\/\d+ \d+$/gm)).toEqual(names.map((name) => `${name} ${bodyLength}`));
    expect(mostUnanswered).toBeLessThanOrEqual(MAX_UNANSWERED);
    expect(mostReadAhead).toBeLessThan(2 * READ_BYTES);
    socket.destroy();
  });
});

describe('a client with pipelined requests', () => {
  const clients = new Clients();
  let test: TestApp;
  let imageId: number;

  beforeAll(async () => {
    test = await TestApp.start();
    const { data } = (await (await test.upload(await picture('png'))).json()) as UploadedChatImageResponseDto;
    imageId = data.id;
  });

  afterEach(() => {
    jest.restoreAllMocks();
    return clients.close(test);
  });

  afterAll(() => test.stop());

  it('gets its responses in order, while the database gets few requests at once', async () => {
    const database = test.app.get(RequestDatabase);
    const run = database.runShared.bind(database);
    let inStatements = 0;
    let most = 0;
    jest.spyOn(database, 'runShared').mockImplementation(async (statement, values) => {
      const items = statement.name === DECIDE_IMAGES.name ? (values[0] as unknown[]).length : 0;
      inStatements += items;
      most = Math.max(most, inStatements);
      try {
        return await run(statement, values);
      } finally {
        inStatements -= items;
      }
    });
    const client = clients.connect(test);
    const ids = Array.from({ length: REQUESTS }, (_, index) => `pipelined-${index}`);
    const head = (id: string): string =>
      client.head({
        method: 'GET',
        path: `/api/chat-images/${imageId}/signed-url`,
        as: DOCTOR,
        headers: [`X-Request-Id: ${id}`],
      });
    client.socket.write(ids.map(head).join(''));
    const answers: string[] = [];
    await eventually(
      () => {
        for (let answer = client.take(); answer; answer = client.take())
          answers.push(`${answer.status} ${answer.headers.get('x-request-id') ?? ''}`);
        return answers.length >= REQUESTS;
      },
      'all answers',
      110_000,
    );
    expect(answers).toEqual(ids.map((id) => `200 ${id}`));
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(MAX_UNANSWERED);
  }, 120_000);

  it('leaves no upload memory in use after it disconnects', async () => {
    const holder = test.database.createQueryRunner();
    await holder.startTransaction();
    try {
      await holder.query('LOCK TABLE chat_image_access IN EXCLUSIVE MODE');
      const client = clients.connect(test);
      const body = form(Buffer.alloc(100_000));
      await client.send(
        client.head({ method: 'GET', path: `/api/chat-images/${imageId}/signed-url`, as: DOCTOR }) +
          client.head({
            as: PATIENT,
            headers: [`Content-Length: ${body.length}`, 'X-Request-Id: the-upload'],
          }),
      );
      await client.send(body);
      await eventually(() => inUse(test) >= 500_000, 'the upload to be received');
      client.socket.resetAndDestroy();
      await eventually(() => inUse(test) === 0, 'its memory to be given back');
      await eventually(
        () => test.logLines.some((line) => line.includes('"the-upload"') && line.includes('"request"')),
        'its line in the log',
      );
    } finally {
      await holder.rollbackTransaction();
      await holder.release();
    }
  });
});
