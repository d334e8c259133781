import { createHash, createHmac } from 'node:crypto';

/** What a SigV4 signature is made with. */
export type SigningCredentials = {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly region: string;
};

const ALGORITHM = 'AWS4-HMAC-SHA256';

/**
 * Signs URLs that read an object, by AWS Signature Version 4 with the signature in the query. The same URLs as the SDK's
 * `getSignedUrl`, to the byte, without its request pipeline: a SHA-256 and an HMAC a URL, and the day's key once a day.
 *
 * @see https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
 */
export class S3UrlSigner {
  private readonly origin: string;
  private readonly host: string;
  private readonly basePath: string;
  private day = '';
  private dayKey: Buffer = Buffer.alloc(0);
  private scope = '';
  private encodedCredential = '';

  /** @param publicUrl the bucket's own address as clients reach it, path included */
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
    const time = `${signedAt.toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`;
    this.useDay(time.slice(0, 8));
    const path = `${this.basePath}/${encodePath(key)}`;
    // In the order of the names' bytes, as the signature wants them; the signature itself is between the last two.
    const before = `X-Amz-Algorithm=${ALGORITHM}&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Credential=${this.encodedCredential}&X-Amz-Date=${time}&X-Amz-Expires=${expiresIn}`;
    const after = 'X-Amz-SignedHeaders=host&x-id=GetObject';
    const request = `GET\n${path}\n${before}&${after}\nhost:${this.host}\n\nhost\nUNSIGNED-PAYLOAD`;
    const toSign = `${ALGORITHM}\n${time}\n${this.scope}\n${createHash('sha256').update(request).digest('hex')}`;
    const signature = createHmac('sha256', this.dayKey).update(toSign).digest('hex');
    return `${this.origin}${path}?${before}&X-Amz-Signature=${signature}&${after}`;
  }

  /** Derives the key that signs on one day (UTC), unless it is the one at hand. */
  private useDay(day: string): void {
    if (day === this.day) return;
    const { accessKeyId, secretAccessKey, region } = this.credentials;
    const hmac = (key: string | Buffer, data: string): Buffer =>
      createHmac('sha256', key).update(data).digest();
    this.dayKey = hmac(hmac(hmac(hmac(`AWS4${secretAccessKey}`, day), region), 's3'), 'aws4_request');
    this.scope = `${day}/${region}/s3/aws4_request`;
    this.encodedCredential = encodeURIComponent(`${accessKeyId}/${this.scope}`);
    this.day = day;
  }
}

/** Percent-encodes all but the unreserved characters of RFC 3986 and the slashes between the segments. */
export function encodePath(key: string): string {
  return encodeURIComponent(key)
    .replaceAll('%2F', '/')
    .replaceAll(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}
