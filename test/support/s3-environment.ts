/** The settings of an S3 server for tests, from `S3_ENDPOINT`, `S3_ACCESS_KEY`, `S3_SECRET_KEY` and `S3_BUCKET`. */
export function s3Environment(): NodeJS.ProcessEnv | undefined {
  const { S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY, S3_BUCKET, REQUIRE_S3 } = process.env;
  if (!S3_ENDPOINT) {
    if (REQUIRE_S3)
      throw new Error('REQUIRE_S3 is set, but S3_ENDPOINT is not: the S3 tests must not be skipped.');
    return undefined;
  }
  return {
    STORAGE_DRIVER: 's3',
    DO_SPACES_KEY: S3_ACCESS_KEY,
    DO_SPACES_SECRET: S3_SECRET_KEY,
    DO_SPACES_ENDPOINT: S3_ENDPOINT,
    DO_SPACES_REGION: 'us-east-1',
    DO_SPACES_BUCKET: S3_BUCKET,
    DO_SPACES_URL: `${S3_ENDPOINT}/${S3_BUCKET}`,
  };
}
