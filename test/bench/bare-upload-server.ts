/*
 * The bare reference for uploads: a server that pipes every body to the storage and answers, without a check. It
 * reads no form, knows no user and no database, and keeps nothing in memory.
 */
import { S3Client, PutObjectCommand } from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { Agent, createServer, type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

const { PORT, STORAGE_DRIVER, LOCAL_STORAGE_DIR = '.' } = process.env;
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

await mkdir(LOCAL_STORAGE_DIR, { recursive: true });
const store = STORAGE_DRIVER === 's3' ? await toBucket() : toDisk;
const server = createServer((incoming, response) => {
  store(incoming).then(
    () => response.setHeader('content-type', 'application/json').end('{"success":true}'),
    () => response.writeHead(503).end(),
  );
});
server.listen(Number(PORT), '127.0.0.1', () => process.stdout.write('"listening"\n'));
process.once('SIGTERM', () => process.exit(0));
