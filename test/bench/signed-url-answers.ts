import assert from 'node:assert/strict';
import { signToken } from '../../src/auth/sign-token.js';
import { type Bench, JWT_SECRET, type Server, withDatabase } from './service-under-test.js';
import type { LoadRequest } from './signed-url-load.js';

/** The servers of the benchmark, by their role. */
export type Servers = Readonly<
  Record<'service' | 'bare' | 'plain' | 'nestConstant' | 'httpConstant', Server>
>;

type Answer = { readonly status: number; readonly headers: Headers; readonly text: string };

type Success = {
  readonly data: { readonly url: string; readonly expires_in: number; readonly expires_at: string };
};

const COMPARED_REQUESTS = 12;

/** The allowed difference of the constants in bytes, as ids differ in length. */
const SIZE_TOLERANCE = 16;

/**
 * Compares the servers before the measurement, as only equal work may be compared. They must have the
 * same responses, audit rows and refusals. The plain version needs only the status of refusals.
 *
 * @throws AssertionError when they differ
 */
export async function assertSameAnswers(
  bench: Bench,
  { service, bare, plain, nestConstant, httpConstant }: Servers,
  requests: readonly LoadRequest[],
): Promise<void> {
  for (const request of requests.slice(0, COMPARED_REQUESTS)) {
    const before = await lastAccess(bench);
    const expected = successOf(await get(service, request));
    for (const server of [bare, plain]) assert.deepEqual(successOf(await get(server, request)), expected);
    const [row, ...others] = await accessesAfter(bench, before);
    assert.ok(row && [String(row.id), row.filename].includes(request.path.split('/')[3] ?? ''));
    assert.deepEqual(others, [row, row]);
  }
  for (const request of refused(bench, requests)) {
    const expected = refusalOf(await get(service, request));
    assert.deepEqual(refusalOf(await get(bare, request)), expected);
    assert.equal((await get(plain, request)).status, expected.status);
  }
  const [request] = requests;
  assert.ok(request);
  const { length } = (await get(service, request)).text;
  for (const server of [nestConstant, httpConstant]) {
    const { status, text } = await get(server, request);
    assert.equal(status, 200);
    assert.ok(Math.abs(text.length - length) <= SIZE_TOLERANCE, `${text.length} bytes, not ${length}`);
  }
}

/** The parts that must be equal: all but the second of signing, which must be consistent within a response. */
function successOf({ status, headers, text }: Answer): object {
  assert.equal(status, 200, text);
  const { url, expires_in, expires_at } = (JSON.parse(text) as Success).data;
  const signedAt = new Date(Date.parse(expires_at) - expires_in * 1000).toISOString();
  assert.equal(new URL(url).searchParams.get('X-Amz-Date'), signedAt.replaceAll(/[-:]|\.000/g, ''));
  const lasting = text.replaceAll(/(?<=X-Amz-Date=|X-Amz-Signature=|expires_at":")\w+[^&"]+/g, '…');
  return { lasting, type: headers.get('content-type'), caching: headers.get('cache-control') };
}

function refusalOf({ status, headers, text }: Answer): {
  readonly status: number;
  readonly body: object;
  readonly named: unknown[];
} {
  const { request_id, ...body } = JSON.parse(text) as Record<string, unknown>;
  assert.equal(request_id, headers.get('x-request-id'));
  const named = ['cache-control', 'content-type', 'www-authenticate'].map((name) => headers.get(name));
  return { status, body, named };
}

/** A request for each reason of a refusal. */
function refused(bench: Bench, requests: readonly LoadRequest[]): readonly LoadRequest[] {
  // Every second request is of a patient, and two patients never share an appointment.
  const patients = requests.filter((_, index) => index % 2 === 1);
  const [own] = patients;
  const other = patients.find(({ token }) => token !== own?.token);
  assert.ok(own && other);
  const key = { algorithm: 'HS256', key: JWT_SECRET, issuer: undefined } as const;
  const tokens = [
    '',
    `${own.token.slice(0, -8)}AAAAAAAA`,
    signToken(1, key, -1),
    signToken(1, { ...key, key: `another ${JWT_SECRET}` }, 60),
    bench.tokenOf(Number.MAX_SAFE_INTEGER),
    other.token,
  ];
  const names = ['0', String(Number.MAX_SAFE_INTEGER), 'no-such-file.jpg'];
  return [
    ...tokens.map((token) => ({ ...own, token })),
    ...names.map((name) => ({ ...own, path: `/api/chat-images/${name}/signed-url` })),
  ];
}

async function get({ port }: Server, { path, token }: LoadRequest): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

async function lastAccess({ environment }: Bench): Promise<number> {
  const sql = 'SELECT coalesce(max(id), 0) AS last FROM chat_image_access';
  const [row] = await withDatabase(environment.DATABASE_URL, (database) =>
    database.query<{ last: number }[]>(sql),
  );
  return row?.last ?? 0;
}

/** The images and users of the audit rows after an id. */
function accessesAfter(
  { environment }: Bench,
  last: number,
): Promise<{ readonly id: number; readonly filename: string; readonly accessed_by: number }[]> {
  const sql = `SELECT image.id, filename, accessed_by
    FROM chat_image_access access JOIN chat_images image ON image.id = chat_image_id WHERE access.id > $1`;
  return withDatabase(environment.DATABASE_URL, (database) => database.query(sql, [last]));
}
