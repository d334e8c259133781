import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { S3UrlSigner } from './s3-url-signer.js';

const credentials = {
  accessKeyId: 'AKIA/EXAMPLE+1',
  secretAccessKey: 'a secret/with+odd=characters',
  region: 'fra1',
};

/** The SHA-256 of the SDK for Node. */
const SHA256 = new S3Client({ region: 'fra1' }).config.sha256;

const ADDRESSES = [
  'https://docavailable-storage.fra1.digitaloceanspaces.com',
  'http://localhost:9000/docavailable-storage',
  'http://localhost:9000/deep/path/bucket',
];

/** The signer of the SDK, with which ours is compared. */
function sdkSigner(
  publicUrl: string,
  { region, ...keys } = credentials,
): (key: string, expiresIn: number, signingDate: Date) => Promise<string> {
  const client = new S3Client({
    region,
    credentials: keys,
    bucketEndpoint: true,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
  return (Key, expiresIn, signingDate) =>
    getSignedUrl(client, new GetObjectCommand({ Bucket: publicUrl, Key }), { expiresIn, signingDate });
}

/** Keys with all allowed characters. The SDK would resolve a segment of dots, which no key has. */
const keys = fc
  .array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 4 })
  .map((segments) => segments.map((segment) => segment.replaceAll(/[/\\\p{Cc}]/gu, '_')).join('/'))
  .filter((key) => key.isWellFormed() && !/(^|\/)\.+(\/|$)/.test(key));

describe('S3UrlSigner', () => {
  it.each(ADDRESSES)('signs every key at any time exactly as the SDK does, for %s', async (address) => {
    const ours = new S3UrlSigner(address, credentials, SHA256);
    const theirs = sdkSigner(address);
    await fc.assert(
      fc.asyncProperty(
        keys,
        fc.integer({ min: 1, max: 604_800 }),
        fc.date({ min: new Date('2000-01-01'), max: new Date('2099-12-31'), noInvalidDate: true }),
        async (key, expiresIn, signedAt) => {
          expect(await ours.sign(key, expiresIn, signedAt)).toBe(await theirs(key, expiresIn, signedAt));
        },
      ),
      { numRuns: 1000, seed: 20260203 },
    );
  });

  it('changes its signing key at midnight UTC, and back when the clock steps back', async () => {
    const address = 'https://bucket.example.com';
    const ours = new S3UrlSigner(address, credentials, SHA256);
    const theirs = sdkSigner(address);
    for (const time of ['2026-02-03T23:59:59.999Z', '2026-02-04T00:00:00.000Z', '2026-02-03T23:59:58.000Z']) {
      const signedAt = new Date(time);
      expect(await ours.sign('a.jpg', 3600, signedAt)).toBe(await theirs('a.jpg', 3600, signedAt));
    }
  });

  it('shares no cached key with a signer of other credentials', async () => {
    const address = 'https://bucket.example.com';
    const signedAt = new Date('2026-02-03T12:00:00.000Z');
    const signers = [
      credentials,
      { ...credentials, secretAccessKey: 'a rotated secret' },
      { ...credentials, accessKeyId: 'ROTATED' },
      { ...credentials, region: 'ams3' },
    ].map((each) => [new S3UrlSigner(address, each, SHA256), sdkSigner(address, each)] as const);
    for (const [ours, theirs] of [...signers, ...signers]) {
      expect(await ours.sign('a.jpg', 3600, signedAt)).toBe(await theirs('a.jpg', 3600, signedAt));
    }
  });
});
