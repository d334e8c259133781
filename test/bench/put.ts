/*
 * npm run bench:put: S3ObjectWriter beside the SDK's PutObjectCommand, interleaved: as it is, and without the middleware
 * that this service does not need, with a known SHA-256 and the pieces as a stream. On the S3 server that S3_ENDPOINT and
 * its companions name, else on a server that takes everything. BENCH_ROUNDS and BENCH_PUTS say how much of it.
 */
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { HttpRequest } from '@smithy/core/protocols';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { fork } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import type { S3Settings } from '../../src/config/settings.js';
import { S3ObjectWriter } from '../../src/storage/s3-object-writer.js';
import { s3Environment } from '../support/s3-environment.js';
import { median } from './service-under-test.js';

const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 5);
const PUTS = Number(process.env.BENCH_PUTS ?? 500);
const SIZES = [300_000, 1000];
const AT_ONCE = 8;
const PIECE_BYTES = 64 * 1024;
const TAKES_EVERYTHING = 'takes everything';

const NEEDLESS = [
  'addExpectContinueMiddleware',
  'loggerMiddleware',
  'recursionDetectionMiddleware',
  'getUserAgentMiddleware',
  'regionRedirectMiddleware',
  's3ExpressMiddleware',
  'validateBucketNameMiddleware',
  'contentLengthMiddleware',
];

type Put = (key: string) => Promise<unknown>;

if (process.argv[2] === TAKES_EVERYTHING) {
  process.once('disconnect', () => process.exit(0));
  const server = createServer((request, response) => {
    request.resume().once('end', () => response.writeHead(200, { 'Content-Length': 0, ETag: '"e"' }).end());
  }).listen(0, '127.0.0.1', () => process.send?.((server.address() as AddressInfo).port));
} else {
  await compare();
  process.exit(0);
}

async function compare(): Promise<void> {
  const s3 = s3Environment();
  let endpoint = s3?.DO_SPACES_ENDPOINT;
  if (endpoint === undefined) {
    const [port] = (await once(fork(import.meta.filename, [TAKES_EVERYTHING]), 'message')) as [number];
    endpoint = `http://127.0.0.1:${port}`;
  }
  const settings = {
    endpoint,
    region: 'us-east-1',
    bucket: s3?.DO_SPACES_BUCKET ?? 'bench-bucket',
    accessKeyId: s3?.DO_SPACES_KEY ?? 'bench-access-key',
    secretAccessKey: s3?.DO_SPACES_SECRET ?? 'bench-secret-key',
    maxAttempts: 3,
    requestTimeoutMs: 10_000,
  };
  console.log(`Node ${process.version}, ${s3 ? 'S3' : 'a server that takes everything'}`);
  for (const size of SIZES) {
    const all = randomBytes(size);
    const pieces = Array.from({ length: Math.ceil(size / PIECE_BYTES) }, (_, index) =>
      all.subarray(index * PIECE_BYTES, (index + 1) * PIECE_BYTES),
    );
    await measure(size, puts(settings as S3Settings, all, pieces));
  }
}

function puts(settings: S3Settings, all: Buffer, pieces: readonly Buffer[]): Readonly<Record<string, Put>> {
  const sha256 = createHash('sha256').update(all).digest('hex');
  const client = (cacheMiddleware: boolean): S3Client =>
    new S3Client({
      region: settings.region,
      credentials: { accessKeyId: settings.accessKeyId, secretAccessKey: settings.secretAccessKey },
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      endpoint: settings.endpoint,
      forcePathStyle: true,
      requestHandler: new NodeHttpHandler({ httpAgent: { keepAlive: true, maxSockets: 64 } }),
      expectContinueHeader: false,
      cacheMiddleware,
    });
  const command = (Key: string, Body: Buffer): PutObjectCommand =>
    new PutObjectCommand({
      Bucket: settings.bucket,
      Key,
      Body,
      ContentLength: all.length,
      ContentType: 'image/jpeg',
      ContentDisposition: 'inline',
      CacheControl: 'private, max-age=3600',
      ACL: 'private',
    });
  const usual = client(false);
  const lean = client(true);
  for (const name of NEEDLESS) lean.middlewareStack.remove(name);
  const knownBody =
    <A extends { request: unknown }, R>(next: (args: A) => R) =>
    (args: A): R => {
      const request = HttpRequest.clone(args.request as HttpRequest);
      request.headers['x-amz-content-sha256'] = sha256;
      // A stream for each try: one that the retry knew could not be sent again.
      request.body = Readable.from(pieces, { objectMode: false });
      return next({ ...args, request });
    };
  lean.middlewareStack.addRelativeTo(knownBody, {
    relation: 'after',
    toMiddleware: 'retryMiddleware',
    name: 'knownBody',
  });
  const writer = new S3ObjectWriter(
    usual,
    new NodeHttpHandler({ httpAgent: { keepAlive: true, maxSockets: 64 } }),
    settings,
  );
  const headers = {
    'content-type': 'image/jpeg',
    'content-disposition': 'inline',
    'cache-control': 'private, max-age=3600',
    'x-amz-acl': 'private',
  };
  const nothing = Buffer.alloc(0);
  return {
    S3ObjectWriter: (key) => writer.put(key, pieces, headers, sha256),
    'PutObjectCommand, lean': (key) => lean.send(command(key, nothing)),
    PutObjectCommand: (key) => usual.send(command(key, all)),
  };
}

async function measure(size: number, all: Readonly<Record<string, Put>>): Promise<void> {
  const rounds = Object.entries(all).map(([name, put]) => ({
    name,
    put,
    cpu: [] as number[],
    perSecond: [] as number[],
  }));
  for (const { put } of rounds) await run(put);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const { put, cpu, perSecond } of rounds) {
      const before = process.cpuUsage();
      const began = performance.now();
      await run(put);
      const { user, system } = process.cpuUsage(before);
      cpu.push((user + system) / PUTS);
      perSecond.push((PUTS / (performance.now() - began)) * 1000);
    }
  }
  console.table(
    rounds.map(({ name, cpu, perSecond }) => ({
      bytes: size,
      name,
      'CPU µs': Math.round(median(cpu)),
      'of the writer': (median(cpu) / median(rounds[0]?.cpu ?? [])).toFixed(2),
      'puts/s': Math.round(median(perSecond)),
      'puts/s of the writer': (median(perSecond) / median(rounds[0]?.perSecond ?? [])).toFixed(2),
    })),
  );
}

async function run(put: Put): Promise<void> {
  let begun = 0;
  const work = async (): Promise<void> => {
    while (begun < PUTS) {
      begun += 1;
      await put(`chat_images/bench/${begun % 64}.jpg`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}
