import { afterEach, describe, expect, it, jest } from '@jest/globals';
import { Access, type RouteAccess } from '../access/access.guard.js';
import type { GrantedImage, RecordedAccess } from '../access/image-access.js';
import { loadSettings } from '../config/settings.js';
import { RequestDatabase } from '../database/request-database.js';
import { ChatImagesService } from './chat-images.service.js';
import type { SignedUrl } from '../storage/storage-provider.js';
import { S3StorageProvider } from '../storage/s3-storage.provider.js';

const ENVIRONMENT = {
  APP_URL: 'http://localhost:3000',
  DATABASE_URL: 'postgres://localhost/none',
  JWT_SECRET: 'a secret that only this test knows, 0123456789',
  DO_SPACES_KEY: 'KEY',
  DO_SPACES_SECRET: 'secret',
  DO_SPACES_ENDPOINT: 'https://fra1.example.com',
  DO_SPACES_REGION: 'fra1',
  DO_SPACES_BUCKET: 'bucket',
  DO_SPACES_URL: 'https://bucket.fra1.example.com',
};

/** A RecordedAccess as ImageAccess makes it, without a database. */
const access = {
  id: 1,
  filePath: 'chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  objectKey: 'chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  byLink: false,
} as RecordedAccess;

/** Signs at a given time, without storage and database. */
function signerAt(environment: NodeJS.ProcessEnv): (moment: string) => Promise<SignedUrl> {
  const settings = loadSettings({ ...ENVIRONMENT, ...environment });
  if (settings.storage.driver !== 's3') throw new Error('The test is about S3.');
  const service = new ChatImagesService(
    new RequestDatabase(settings),
    new S3StorageProvider(settings.storage),
    settings,
  );
  return (moment) => {
    jest.spyOn(Date, 'now').mockReturnValue(new Date(moment).getTime());
    return service.signedUrl(access);
  };
}

it('takes only a recorded access: the type check fails where these lines compile', () => {
  const granted: GrantedImage = access;
  // @ts-expect-error: a literal is no audit row.
  const literal: RecordedAccess = {
    id: 1,
    filePath: '',
    objectKey: '',
    variant: 'original',
    thumbnail: null,
    byLink: false,
  };
  // @ts-expect-error: an image that a user may see is no audit row.
  const unrecorded: RecordedAccess = granted;
  class Route implements RouteAccess<GrantedImage> {
    grant = (): Promise<GrantedImage> => Promise.resolve(access);
  }
  class Controller {
    // @ts-expect-error: the route grants an image, and the handler takes a recorded access.
    @Access(Route)
    handler(recorded: RecordedAccess): RecordedAccess {
      return recorded;
    }
  }
  expect([literal, unrecorded, new Controller().handler(access)]).toHaveLength(3);
});

describe('a signed URL', () => {
  afterEach(() => {
    jest.restoreAllMocks();
  });

  it('is new each second and lasts exactly an hour, without a window', async () => {
    const sign = signerAt({});
    const first = await sign('2026-02-03T12:00:00.900Z');
    const second = await sign('2026-02-03T12:00:01.000Z');
    expect(first).toMatchObject({ expiresIn: 3600, expiresAt: new Date('2026-02-03T13:00:00.000Z') });
    expect(second).toMatchObject({ expiresIn: 3600, expiresAt: new Date('2026-02-03T13:00:01.000Z') });
    expect(second.url).not.toBe(first.url);
  });

  it('is the same within SIGNED_URL_WINDOW_SECONDS, with the remaining time', async () => {
    const sign = signerAt({ SIGNED_URL_WINDOW_SECONDS: '600' });
    const first = await sign('2026-02-03T12:10:00.000Z');
    const last = await sign('2026-02-03T12:19:59.999Z');
    const next = await sign('2026-02-03T12:20:00.000Z');
    expect(last.url).toBe(first.url);
    expect(first).toMatchObject({ expiresIn: 3600, expiresAt: new Date('2026-02-03T13:10:00.000Z') });
    // The remaining seconds are rounded down.
    expect(last).toMatchObject({ expiresIn: 3000, expiresAt: new Date('2026-02-03T13:10:00.000Z') });
    expect(next.url).not.toBe(first.url);
    expect(next).toMatchObject({ expiresIn: 3600, expiresAt: new Date('2026-02-03T13:20:00.000Z') });
  });

  it('expires exactly at its expires_at, with and without a window', async () => {
    for (const window of ['0', '7', '1800']) {
      const { url, expiresAt } = await signerAt({ SIGNED_URL_WINDOW_SECONDS: window })(
        '2026-02-03T12:34:56.789Z',
      );
      const query = new URL(url).searchParams;
      const date = (query.get('X-Amz-Date') ?? '').replace(
        /(....)(..)(..)T(..)(..)(..)Z/,
        '$1-$2-$3T$4:$5:$6Z',
      );
      const expires = new Date(new Date(date).getTime() + Number(query.get('X-Amz-Expires')) * 1000);
      expect([window, expires]).toEqual([window, expiresAt]);
    }
  });

  it('has a window of at most half of SIGNED_URL_EXPIRES_SECONDS', () => {
    expect(() =>
      loadSettings({
        ...ENVIRONMENT,
        SIGNED_URL_WINDOW_SECONDS: '301',
        SIGNED_URL_EXPIRES_SECONDS: '600',
      }),
    ).toThrow(/^SIGNED_URL_WINDOW_SECONDS must be at most half of SIGNED_URL_EXPIRES_SECONDS/);
  });
});
