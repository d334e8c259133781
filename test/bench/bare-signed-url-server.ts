/*
 * The bare reference for signed URLs: the least code with the same response after the same checks. `node:http`, `pg`,
 * and per request one HMAC for the token, one prepared statement, and one signature.
 */
import { createHmac, createSecretKey, randomUUID, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';
import pg from 'pg';
import { parseId } from '../../src/database/parse-id.js';
import { AppError } from '../../src/errors/app-error.js';
import { toTimestamp } from '../../src/timestamp.js';
import { BareUrlSigner } from './bare-url-signer.js';

const { PORT, DATABASE_URL, JWT_SECRET = '', DO_SPACES_URL = '' } = process.env;
const { DO_SPACES_KEY = '', DO_SPACES_SECRET = '', DO_SPACES_REGION = '' } = process.env;
const EXPIRES_SECONDS = 3600;

const key = createSecretKey(JWT_SECRET, 'utf8');
const signer = new BareUrlSigner(DO_SPACES_URL, {
  accessKeyId: DO_SPACES_KEY,
  secretAccessKey: DO_SPACES_SECRET,
  region: DO_SPACES_REGION,
});

/** A pool of ten connections. The pool of `pg` would cost a tenth of this server's speed. */
class Connections {
  private readonly waiting: ((client: pg.Client) => void)[] = [];

  private constructor(private readonly idle: pg.Client[]) {}

  static async open(): Promise<Connections> {
    const clients = Array.from({ length: 10 }, async () => {
      const client = new pg.Client({
        connectionString: DATABASE_URL,
        // A statement is planned once for all values, instead of five times for single values first.
        options: '-c plan_cache_mode=force_generic_plan',
      });
      await client.connect();
      return client;
    });
    return new Connections(await Promise.all(clients));
  }

  async firstRow<R extends unknown[]>(query: pg.QueryConfig): Promise<R | undefined> {
    const client = this.idle.pop() ?? (await new Promise<pg.Client>((resolve) => this.waiting.push(resolve)));
    try {
      const { rows } = await client.query<R>({ ...query, rowMode: 'array' });
      return rows[0];
    } finally {
      const next = this.waiting.shift();
      if (next) next(client);
      else this.idle.push(client);
    }
  }
}

const connections = await Connections.open();

/** Finds user and image, decides, and writes the audit row, in a single statement. */
const lookUp = (column: 'id' | 'filename'): string => `
  WITH found AS (
    SELECT users.id AS caller, image.id, file_path, appointments.id AS appointment,
      $1 IN (patient_id, doctor_id) AS allowed
    FROM (VALUES (0)) once LEFT JOIN users ON users.id = $1
      LEFT JOIN chat_images image ON image.${column} = $2 AND state = 'stored'
      LEFT JOIN appointments ON appointments.id = appointment_id
  ),
  trail AS (
    INSERT INTO chat_image_access (chat_image_id, accessed_by)
    SELECT id, caller FROM found WHERE caller IS NOT NULL AND allowed
  )
  SELECT caller IS NOT NULL, file_path, appointment IS NOT NULL, allowed FROM found`;

const BY_ID = { name: 'by-id', text: lookUp('id') };
const BY_FILENAME = { name: 'by-filename', text: lookUp('filename') };

type Row = [
  userExists: boolean,
  filePath: string | null,
  appointmentExists: boolean,
  allowed: boolean | null,
];

const ROUTE = /^\/api\/chat-images\/([^/?]+)\/signed-url\/?(?:\?|$)/;
const FILENAME = /^[\w.-]{1,255}$/;
const REQUEST_ID = /^[\w-]{8,64}$/;
const BEARER = /^Bearer +([\w-]+)\.([\w-]+)\.([\w-]+)$/i;

/** The user of a token with the accepted algorithm. `exp` is required, and `nbf` is checked. */
function userOf(authorization: string | undefined): number {
  const [, header, claims, signature] = BEARER.exec(authorization ?? '') ?? [];
  if (!header || !claims || !signature) throw new AppError('UNAUTHENTICATED');
  const expected = createHmac('sha256', key).update(`${header}.${claims}`).digest();
  const given = Buffer.from(signature, 'base64url');
  if (given.length !== expected.length || !timingSafeEqual(given, expected))
    throw new AppError('UNAUTHENTICATED');
  const { alg } = decode(header);
  const { sub, exp, nbf } = decode(claims);
  const now = Math.floor(Date.now() / 1000);
  const inTime =
    typeof exp === 'number' && exp > now && (nbf === undefined || (typeof nbf === 'number' && nbf <= now));
  const id = typeof sub === 'string' ? parseId(sub) : undefined;
  if (alg !== 'HS256' || !inTime || id === undefined) throw new AppError('UNAUTHENTICATED');
  return id;
}

/** Decodes a part of a verified token, which so is JSON. */
function decode(part: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(part, 'base64url').toString()) as Record<string, unknown>;
}

function imageOf(url: string): string {
  const [, id] = ROUTE.exec(url) ?? [];
  if (id === undefined) throw new AppError('NOT_FOUND');
  return id.includes('%') ? decodeURIComponent(id) : id;
}

async function answer({ method, url = '', headers }: IncomingMessage): Promise<string> {
  const image = imageOf(method === 'GET' ? url : '');
  const user = userOf(headers.authorization);
  const id = parseId(image);
  const query =
    id === undefined
      ? // No file has an empty name. The user is checked first also then.
        { ...BY_FILENAME, values: [user, FILENAME.test(image) ? image : ''] }
      : { ...BY_ID, values: [user, id] };
  const row = await connections.firstRow<Row>(query);
  const [userExists, filePath, appointmentExists, allowed] = row ?? [false, null, false, null];
  if (!userExists) throw new AppError('UNAUTHENTICATED');
  if (filePath === null) throw new AppError('IMAGE_NOT_FOUND');
  if (!appointmentExists) throw new AppError('APPOINTMENT_NOT_FOUND');
  if (allowed !== true) throw new AppError('FORBIDDEN');
  const second = Math.floor(Date.now() / 1000) * 1000;
  return JSON.stringify({
    success: true,
    data: {
      url: signer.sign(filePath, EXPIRES_SECONDS, new Date(second)),
      expires_in: EXPIRES_SECONDS,
      expires_at: toTimestamp(new Date(second + EXPIRES_SECONDS * 1000)),
    },
  });
}

const server = createServer((request, response) => {
  const given = request.headers['x-request-id'];
  const requestId = typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
  const send = (status: number, body: string, more: OutgoingHttpHeaders = {}): void => {
    response.writeHead(status, {
      'X-Request-Id': requestId,
      'Cache-Control': 'no-store',
      'Content-Type': 'application/json; charset=utf-8',
      'Content-Length': Buffer.byteLength(body),
      ...more,
    });
    response.end(body);
  };
  answer(request).then(
    (body) => send(200, body),
    (error: unknown) => {
      const { status, message, code } =
        error instanceof AppError ? error : new AppError('DATABASE_UNAVAILABLE', { cause: error });
      const body = { success: false, message, error_code: code, request_id: requestId };
      send(status, JSON.stringify(body), {
        ...(status === 401 ? { 'WWW-Authenticate': 'Bearer' } : {}),
        ...(status === 503 ? { 'Retry-After': '5' } : {}),
      });
    },
  );
});
server.listen(Number(PORT), '127.0.0.1');
process.once('SIGTERM', () => process.exit(0));
