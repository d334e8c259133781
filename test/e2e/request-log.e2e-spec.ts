import { afterAll, beforeAll, expect, it } from '@jest/globals';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { LINES_PER_PERIOD } from '../../src/observability/flood-summary.js';
import { eventually } from '../support/eventually.js';
import { picture } from '../support/pictures.js';
import { Client } from '../support/raw-clients.js';
import { refusal, S3Answers } from '../support/s3-answers.js';
import { DOCTOR, OUTSIDER, PATIENT, TestApp } from '../support/test-app.js';

type Line = Readonly<Record<string, unknown>>;

let answers: S3Answers;
let test: TestApp;
let imageId: number;

beforeAll(async () => {
  answers = await S3Answers.start();
  test = await TestApp.start({ ...answers.environment, TRUST_PROXY: '1' });
  const response = await test.upload(await picture('png'));
  imageId = ((await response.json()) as UploadedChatImageResponseDto).data.id;
});

afterAll(async () => {
  await test.stop();
  answers.stop();
});

const lines = (): Line[] => test.logLines.map((line) => JSON.parse(line) as Line);

/** The request's log line, which is written after its response. */
async function lineOf({ headers }: Response): Promise<Line> {
  const id = headers.get('x-request-id');
  return eventually(
    () => lines().find(({ requestId, msg }) => requestId === id && msg === 'request'),
    'the line of the request',
  );
}

/** Each request comes from its own network, as floods are summarised per network. */
const fetchFrom = (
  address: string,
  path: string,
  init: Parameters<TestApp['fetch']>[1] = {},
): Promise<Response> =>
  test.fetch(path, { ...init, headers: { ...(init.headers as object), 'x-forwarded-for': address } });

it.each([
  ['203.0.113.1', '203.0.113.1'],
  ['::ffff:203.0.113.2', '203.0.113.2'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
])("the log line of a request has the client's network, not the address %s", async (address, network) => {
  expect(await lineOf(await fetchFrom(address, '/api/health'))).toMatchObject({ network });
  expect(await lineOf(await fetchFrom(address, '/nothing'))).toMatchObject({ network, status: 404 });
  if (network !== address) expect(test.logLines.join('\n')).not.toContain(address);
});

it('the log line of a request has the image number, also after a refusal', async () => {
  for (const [as, status] of [
    [DOCTOR, 200],
    [OUTSIDER, 403],
  ] as const)
    for (const path of [`/api/chat-images/${imageId}`, `/api/chat-images/${imageId}/signed-url`])
      expect(await lineOf(await test.fetch(path, { as }))).toMatchObject({ userId: as, imageId, status });
  const unknown = await lineOf(await test.fetch('/api/chat-images/999999/signed-url', { as: DOCTOR }));
  expect(unknown).not.toHaveProperty('imageId');
});

it('the log line of an upload has the number of its image', async () => {
  const response = await test.upload(await picture('png'));
  const { data } = (await response.json()) as UploadedChatImageResponseDto;
  expect(await lineOf(response)).toMatchObject({ userId: PATIENT, imageId: data.id, status: 200 });
});

it('the log line of a batch request has the numbers of granted and refused images', async () => {
  const response = await test.fetch('/api/chat-images/signed-urls', {
    method: 'POST',
    as: OUTSIDER,
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ids: [imageId, 999_999] }),
  });
  expect(await lineOf(response)).toMatchObject({ userId: OUTSIDER, imageIds: [imageId], status: 200 });
});

it('the log line of a malformed request has the network of the client', async () => {
  const client = new Client(test);
  await client.send('NONSENSE\r\n\r\n');
  await client.answersUntilClosed();
  expect(lines()).toContainEqual(
    expect.objectContaining({ network: '127.0.0.1', route: 'none', status: 400, msg: 'request' }),
  );
});

it('the log names a wrong storage secret instead of an outage', async () => {
  answers.answerWith(refusal(403, 'SignatureDoesNotMatch', ({ method }) => method === 'PUT'));
  const response = await test.upload(await picture('png'));
  answers.answerWith();
  expect(response.status).toBe(503);
  const id = response.headers.get('x-request-id');
  expect(lines().find(({ requestId, msg }) => requestId === id && msg === 'failure')).toMatchObject({
    code: 'STORAGE_UNAVAILABLE',
    storage: 'wrong-secret',
    storageStatus: 403,
    storageError: 'SignatureDoesNotMatch',
  });
});

it('the log summarises floods of refusals and failures, and keeps every success line', async () => {
  const flooded = 5 * LINES_PER_PERIOD;
  const repeat = async (send: () => Promise<Response>): Promise<void> => {
    for (let sent = 0; sent < flooded; sent += 5)
      await Promise.all(Array.from({ length: 5 }, async () => (await send()).arrayBuffer()));
  };
  test.logLines.length = 0;
  await repeat(() => fetchFrom('203.0.113.50', '/nothing'));
  await fetchFrom('203.0.113.51', '/nothing');
  await repeat(() => fetchFrom('203.0.113.52', '/api/health'));
  await test.database.query('ALTER TABLE chat_image_access RENAME COLUMN accessed_by TO broken');
  await repeat(() => test.fetch(`/api/chat-images/${imageId}/signed-url`, { as: DOCTOR }));
  await test.database.query('ALTER TABLE chat_image_access RENAME COLUMN broken TO accessed_by');
  // The last summary is written when the service stops.
  await test.restart({});
  const count = (fields: Line): number =>
    lines().filter((line) => Object.entries(fields).every(([name, value]) => line[name] === value)).length;
  /** The number of lines of a kind, with those that a summary counts. */
  const told = (fields: Line): number =>
    lines()
      .filter((line) => Object.entries(fields).every(([name, value]) => line[name] === value))
      .reduce((total, { suppressed = 1 }) => total + Number(suppressed), 0);
  const nothing = { network: '203.0.113.50', status: 404 };
  expect(told(nothing)).toBe(flooded);
  expect(count({ network: '203.0.113.51', status: 404, msg: 'request' })).toBe(1);
  expect(count({ network: '203.0.113.52', status: 200, msg: 'request' })).toBe(flooded);
  expect(told({ route: '/api/chat-images/:id/signed-url', status: 500 })).toBe(flooded);
  expect(told({ code: 'INTERNAL_ERROR' })).toBe(flooded);
  // A slow machine needs more periods, and each period begins with single lines.
  for (const kind of [nothing, { status: 500 }, { code: 'INTERNAL_ERROR' }])
    expect(count(kind)).toBeLessThan(flooded / 2);
});
