import {
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { CuttingProxy, type Fault } from '../support/cutting-proxy.js';
import { s3Environment } from '../support/s3-environment.js';
import { type EndFault, INSTANCES } from './plan.js';

/** A storage. Each instance has its own way to it, which can be disturbed. */
export type ChaosStorage = {
  readonly name: 'S3' | 'local disk';
  /** The settings of an instance. */
  environment(instance: number): NodeJS.ProcessEnv;
  /** Disturbs the way of an instance. Resolves to a function that ends the fault. */
  disturb(instance: number, fault: Fault): EndFault | Promise<EndFault>;
  /** The number of cancelled requests that may still take effect. */
  underWay(): number;
  /** The keys of all objects, read without disturbance. */
  keys(): Promise<readonly string[]>;
  stop(): Promise<void>;
};

/** Starts a storage on the S3 server of `S3_ENDPOINT` when it is set, else in a folder. */
export function startStorage(): Promise<ChaosStorage> {
  const environment = s3Environment();
  return environment ? startBucket(environment) : startFolder();
}

/** A new bucket, with a network for each instance that can be cut. */
async function startBucket(environment: NodeJS.ProcessEnv): Promise<ChaosStorage> {
  const bucket = `chaos-${randomUUID()}`;
  const endpoint = environment.DO_SPACES_ENDPOINT ?? '';
  const client = new S3Client({
    endpoint,
    region: environment.DO_SPACES_REGION ?? '',
    credentials: {
      accessKeyId: environment.DO_SPACES_KEY ?? '',
      secretAccessKey: environment.DO_SPACES_SECRET ?? '',
    },
    forcePathStyle: true,
  });
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  const { hostname, port } = new URL(endpoint);
  const proxies = await Promise.all(
    Array.from({ length: INSTANCES }, () => CuttingProxy.start({ host: hostname, port: Number(port || 80) })),
  );
  const keys = async (): Promise<string[]> => {
    const found: string[] = [];
    for await (const { Contents: objects = [] } of paginateListObjectsV2({ client }, { Bucket: bucket }))
      found.push(...objects.map(({ Key = '' }) => Key));
    return found;
  };
  return {
    name: 'S3',
    environment: (instance) => ({
      ...environment,
      DO_SPACES_BUCKET: bucket,
      DO_SPACES_URL: `${endpoint}/${bucket}`,
      DO_SPACES_ENDPOINT: `http://${proxies[instance]?.address ?? ''}`,
    }),
    disturb: (instance, fault) => {
      proxies[instance]?.fail(fault);
      return () => proxies[instance]?.pass();
    },
    underWay: () => proxies.reduce((sum, { underWay }) => sum + underWay, 0),
    keys,
    stop: async () => {
      for (const proxy of proxies) await proxy.stop();
      for (const Key of await keys()) await client.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
      await client.send(new DeleteBucketCommand({ Bucket: bucket }));
      client.destroy();
    },
  };
}

/** A folder, with a link to it for each instance. During a fault a file replaces the link. */
async function startFolder(): Promise<ChaosStorage> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-image-chaos-storage-'));
  const pictures = join(folder, 'pictures');
  await mkdir(join(pictures, 'objects'), { recursive: true });
  const link = (instance: number): string => join(folder, `instance-${instance}`);
  for (let instance = 0; instance < INSTANCES; instance += 1) await symlink(pictures, link(instance));
  return {
    name: 'local disk',
    environment: (instance) => ({ LOCAL_STORAGE_DIR: link(instance) }),
    disturb: async (instance) => {
      await writeFile(`${link(instance)}.file`, '');
      await rename(`${link(instance)}.file`, link(instance));
      return async () => {
        await symlink(pictures, `${link(instance)}.link`);
        await rename(`${link(instance)}.link`, link(instance));
      };
    },
    underWay: () => 0,
    keys: async () => {
      const objects = join(pictures, 'objects');
      const entries = await readdir(objects, { recursive: true, withFileTypes: true });
      return entries
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => relative(objects, join(parentPath, name)));
    },
    stop: () => rm(folder, { recursive: true, force: true }),
  };
}
