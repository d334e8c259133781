/*
 * The bare reference for uploads: a server that pipes every body to the storage and answers, without a check. It
 * reads no form, knows no user, and keeps nothing in memory. With BENCH_ROWS it is the least that a store of pictures without
 * any check of them does: one row is committed before the object is written, and another one after it.
 */
import { S3Client, PutObjectCommand } from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { Agent, createServer, type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';

const { PORT, STORAGE_DRIVER, LOCAL_STORAGE_DIR = '.', DATABASE_URL, BENCH_ROWS } = process.env;
const agent = new Agent({ keepAlive: true, maxSockets: 64 });

async function toDisk(body: IncomingMessage): Promise<void> {
  await pipeline(body, createWriteStream(join(LOCAL_STORAGE_DIR, randomUUID())));
}

/** Uses presigned URLs, as signing is not measured. */
async function toBucket(): Promise<(body: IncomingMessage) => Promise<void>> {
  const { DO_SPACES_KEY = '', DO_SPACES_SECRET = '', DO_SPACES_ENDPOINT, DO_SPACES_BUCKET } = process.env;
  const client = new S3Client({
    region: 'us-east-1',
    endpoint: DO_SPACES_ENDPOINT ?? '',
    forcePathStyle: true,
    credentials: { accessKeyId: DO_SPACES_KEY, secretAccessKey: DO_SPACES_SECRET },
    requestChecksumCalculation: 'WHEN_REQUIRED',
  });
  const urls = await Promise.all(
    Array.from({ length: 512 }, (_, index) =>
      getSignedUrl(client, new PutObjectCommand({ Bucket: DO_SPACES_BUCKET, Key: `bench/${index}` }), {
        expiresIn: 86_400,
      }),
    ),
  );
  let next = 0;
  return async (body) => {
    const put = request(urls[(next += 1) % urls.length] ?? '', {
      method: 'PUT',
      agent,
      headers: { 'content-length': body.headers['content-length'] ?? '0' },
    });
    const answer = new Promise<IncomingMessage>((resolve, reject) =>
      put.on('response', resolve).on('error', reject),
    );
    await pipeline(body, put);
    const { statusCode } = (await answer).resume();
    if (statusCode !== 200) throw new Error(`The storage answered ${statusCode}.`);
  };
}

async function withRows(
  store: (body: IncomingMessage) => Promise<void>,
): Promise<(body: IncomingMessage) => Promise<void>> {
  const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 });
  await pool.query('CREATE TABLE IF NOT EXISTS bench_rows (id bigserial PRIMARY KEY, name text NOT NULL)');
  const commitRow = (name: string): Promise<unknown> =>
    pool.query({ name: 'row', text: 'INSERT INTO bench_rows (name) VALUES ($1)', values: [name] });
  return async (body) => {
    await commitRow('begun');
    await store(body);
    await commitRow('stored');
  };
}

await mkdir(LOCAL_STORAGE_DIR, { recursive: true });
const toStorage = STORAGE_DRIVER === 's3' ? await toBucket() : toDisk;
const store = BENCH_ROWS ? await withRows(toStorage) : toStorage;
const server = createServer((incoming, response) => {
  store(incoming).then(
    () => response.setHeader('content-type', 'application/json').end('{"success":true}'),
    () => response.writeHead(503).end(),
  );
});
server.listen(Number(PORT), '127.0.0.1', () => process.stdout.write('"listening"\n'));
process.once('SIGTERM', () => process.exit(0));
