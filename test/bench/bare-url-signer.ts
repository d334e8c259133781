import { createHmac, hash } from 'node:crypto';

/** Key and region for signatures of AWS Signature Version 4. */
type SigningCredentials = {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly region: string;
};

/** The common parts of all URLs that are signed in the same second. */
type SigningMoment = {
  /** Seconds since 1970. */
  readonly second: number;
  readonly time: string;
  readonly day: string;
  readonly scope: string;
  readonly signatureOf: (toSign: string) => string;
  /** The start of the query. */
  readonly parameters: string;
};

const ALGORITHM = 'AWS4-HMAC-SHA256';

/** The block size and the result size of SHA-256. */
const BLOCK_BYTES = 64;
const DIGEST_BYTES = 32;

/** Characters without escapes, which nearly every key has only. */
const PLAIN_PATH = /^[\w./~-]*$/;

/**
 * Signs URLs that read an object, by AWS Signature Version 4 with the signature in the query. The URLs equal those of the SDK's
 * `getSignedUrl`, without its request pipeline: a SHA-256 and an HMAC per URL, and a signing key per day.
 *
 * @see https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
 */
export class BareUrlSigner {
  private readonly origin: string;
  private readonly host: string;
  private readonly basePath: string;
  private moment: SigningMoment | undefined;

  /** @param publicUrl the public address of the bucket, with its path */
  constructor(
    publicUrl: string,
    private readonly credentials: SigningCredentials,
  ) {
    const url = new URL(publicUrl);
    this.origin = url.origin;
    this.host = url.host;
    this.basePath = url.pathname.replace(/\/+$/, '');
  }

  /**
   * @param key of the object
   * @param expiresIn seconds from `signedAt` for which the URL works
   * @param signedAt counts to the second
   */
  sign(key: string, expiresIn: number, signedAt: Date): string {
    const { time, scope, signatureOf, parameters } = this.momentOf(signedAt);
    const path = `${this.basePath}/${encodePath(key)}`;
    // The signature needs the parameters in byte order. It stands between the last two.
    const before = `${parameters}&X-Amz-Expires=${expiresIn}`;
    const after = 'X-Amz-SignedHeaders=host&x-id=GetObject';
    const request = `GET\n${path}\n${before}&${after}\nhost:${this.host}\n\nhost\nUNSIGNED-PAYLOAD`;
    const signature = signatureOf(`${ALGORITHM}\n${time}\n${scope}\n${hash('sha256', request)}`);
    return `${this.origin}${path}?${before}&X-Amz-Signature=${signature}&${after}`;
  }

  /** The common parts of all URLs of a second, with the signing key of the day (UTC). */
  private momentOf(signedAt: Date): SigningMoment {
    const second = Math.floor(signedAt.getTime() / 1000);
    if (this.moment?.second === second) return this.moment;
    const time = `${signedAt.toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`;
    const day = time.slice(0, 8);
    const { accessKeyId, region } = this.credentials;
    const scope = `${day}/${region}/s3/aws4_request`;
    const credential = encodeURIComponent(`${accessKeyId}/${scope}`);
    this.moment = {
      second,
      time,
      day,
      scope,
      signatureOf: this.moment?.day === day ? this.moment.signatureOf : this.signatureBy(day, scope),
      parameters: `X-Amz-Algorithm=${ALGORITHM}&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Credential=${credential}&X-Amz-Date=${time}`,
    };
    return this.moment;
  }

  /** Signs with the key of a day. All signed texts of the day have the same length. */
  private signatureBy(day: string, scope: string): (toSign: string) => string {
    const { secretAccessKey, region } = this.credentials;
    const hmac = (key: string | Buffer, data: string): Buffer =>
      createHmac('sha256', key).update(data).digest();
    const key = hmac(hmac(hmac(hmac(`AWS4${secretAccessKey}`, day), region), 's3'), 'aws4_request');
    const length = Buffer.byteLength(`${ALGORITHM}\n${day}T000000Z\n${scope}\n`) + 2 * DIGEST_BYTES;
    return hmacSha256(key, length);
  }
}

/**
 * HMAC-SHA256 of texts of the same length (RFC 2104, 2). It uses two hashes, as an object of `createHmac` per text costs
 * more than both.
 *
 * @param key not longer than a block
 * @param textBytes the length of each text, in UTF-8
 */
function hmacSha256(key: Buffer, textBytes: number): (text: string) => string {
  const inner = Buffer.alloc(BLOCK_BYTES + textBytes, 0x36);
  const outer = Buffer.alloc(BLOCK_BYTES + DIGEST_BYTES, 0x5c);
  for (const [index, byte] of key.entries()) {
    inner[index] = byte ^ 0x36;
    outer[index] = byte ^ 0x5c;
  }
  return (text) => {
    inner.write(text, BLOCK_BYTES);
    outer.write(hash('sha256', inner, 'binary'), BLOCK_BYTES, 'binary');
    return hash('sha256', outer);
  };
}

/** Percent-encodes all but the unreserved characters of RFC 3986 and the slashes between the segments. */
function encodePath(key: string): string {
  if (PLAIN_PATH.test(key)) return key;
  return encodeURIComponent(key)
    .replaceAll('%2F', '/')
    .replaceAll(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}
