import type { S3Client } from '@aws-sdk/client-s3';
import { formatUrl } from '@aws-sdk/core/util';
import { S3RequestPresigner } from '@aws-sdk/s3-request-presigner';
import { extendedEncodeURIComponent, HttpRequest } from '@smithy/core/protocols';

/** Key and region for signatures of AWS Signature Version 4. */
export type SigningCredentials = {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly region: string;
};

/**
 * Signs URLs that read an object, with the SDK's presigner: the same URLs as its `getSignedUrl`, to the byte, without the
 * middleware of a `GetObjectCommand` around each.
 *
 * @see https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
 */
export class S3UrlSigner {
  private readonly presigner: S3RequestPresigner;
  private readonly address: Pick<HttpRequest, 'protocol' | 'hostname'> & { readonly port?: number };
  private readonly basePath: string;

  /**
   * @param publicUrl the bucket's own address as clients reach it, path included
   * @param sha256 the hash that the client signs with
   */
  constructor(
    publicUrl: string,
    { accessKeyId, secretAccessKey, region }: SigningCredentials,
    sha256: S3Client['config']['sha256'],
  ) {
    const { protocol, hostname, port, pathname } = new URL(publicUrl);
    this.address = { protocol, hostname, ...(port === '' ? {} : { port: Number(port) }) };
    this.basePath = pathname.replace(/\/+$/, '');
    this.presigner = new S3RequestPresigner({
      credentials: { accessKeyId, secretAccessKey },
      region,
      sha256,
    });
  }

  /**
   * @param key of the object
   * @param expiresIn seconds from `signedAt` for which the URL works
   * @param signedAt counts to the second
   */
  async sign(key: string, expiresIn: number, signedAt: Date): Promise<string> {
    const request = new HttpRequest({
      ...this.address,
      method: 'GET',
      path: `${this.basePath}/${encodePath(key)}`,
      query: { 'x-id': 'GetObject' },
    });
    return formatUrl(await this.presigner.presign(request, { expiresIn, signingDate: signedAt }));
  }
}

/** Percent-encodes all but the unreserved characters of RFC 3986 and the slashes between the segments. */
export function encodePath(key: string): string {
  return key.split('/').map(extendedEncodeURIComponent).join('/');
}
