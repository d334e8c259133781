/** Why the storage failed a request, as far as its response tells. */
export type StorageFailure =
  | 'wrong-key'
  | 'wrong-secret'
  | 'wrong-region'
  | 'no-such-bucket'
  | 'acl-refused'
  | 'access-denied'
  | 'clock-skewed'
  | 'no-tls'
  | 'unreachable'
  | 'failing'
  | 'unexpected'
  /** The folder of the local driver can't be used. */
  | 'unusable-folder';

/** The advice for each failure: the variable, and the right value where it is known. */
const ADVICE: Readonly<Record<StorageFailure, string>> = {
  'wrong-key':
    'DO_SPACES_KEY is no access key that the storage knows: copy it again, or make a new key with its secret',
  'wrong-secret': 'DO_SPACES_SECRET is not the secret of DO_SPACES_KEY: copy both again, or make a new pair',
  'wrong-region':
    "DO_SPACES_REGION or DO_SPACES_ENDPOINT is of another region than the bucket's: write the bucket's region in both",
  'no-such-bucket':
    "DO_SPACES_BUCKET does not exist at DO_SPACES_ENDPOINT: check the bucket's name, and that the endpoint is of its region",
  'acl-refused': 'The bucket has ACLs switched off and refuses x-amz-acl: set DO_SPACES_OBJECT_ACL=none',
  'access-denied':
    'The storage denies this to DO_SPACES_KEY: give the key the right to list the bucket, and to read, write and delete in it',
  'clock-skewed':
    "This machine's clock and the storage's differ by more than it allows (15 minutes): set the clock by NTP",
  'no-tls':
    'DO_SPACES_ENDPOINT can not be reached over TLS: check https or http, and name a private certificate authority in NODE_EXTRA_CA_CERTS',
  unreachable:
    'The storage does not answer: check DO_SPACES_ENDPOINT, the network, and that the storage is running',
  failing: 'The storage has trouble of its own: see whether its provider tells of an outage',
  unexpected: 'What answers at DO_SPACES_ENDPOINT does not answer as S3 does: check the address',
  'unusable-folder':
    'LOCAL_STORAGE_DIR can not be used: name a folder that this user may write to, with room on its disk',
};

/** Mistakes in the configuration: a retry will not help. */
const MISTAKES: ReadonlySet<StorageFailure> = new Set<StorageFailure>([
  'wrong-key',
  'wrong-secret',
  'wrong-region',
  'no-such-bucket',
  'acl-refused',
  'unusable-folder',
]);

/**
 * The error codes in the body of a storage's response.
 *
 * @see https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
 */
const BY_CODE: Readonly<Record<string, StorageFailure>> = {
  InvalidAccessKeyId: 'wrong-key',
  SignatureDoesNotMatch: 'wrong-secret',
  AuthorizationHeaderMalformed: 'wrong-region',
  IllegalLocationConstraintException: 'wrong-region',
  InvalidRegion: 'wrong-region',
  PermanentRedirect: 'wrong-region',
  TemporaryRedirect: 'wrong-region',
  NoSuchBucket: 'no-such-bucket',
  InvalidBucketName: 'no-such-bucket',
  AccessControlListNotSupported: 'acl-refused',
  AccessDenied: 'access-denied',
  AllAccessDisabled: 'access-denied',
  AccountProblem: 'access-denied',
  RequestTimeTooSkewed: 'clock-skewed',
};

/** Certificates that are not trusted, expired or of another host; TLS to a port without TLS. */
const TLS_CODE = /^(EPROTO|CERT_|ERR_TLS_|ERR_SSL_|SELF_SIGNED_|DEPTH_ZERO_|UNABLE_TO_(GET|VERIFY)_)/;

const REDIRECT_STATUS = /^3\d\d$/;
const DENIED_STATUS = /^40[13]$/;
const FAILING_STATUS = /^(429|5\d\d)$/;

/** The response to a failed request. */
export type FailedAnswer = {
  /** The HTTP status; none where no response came. */
  readonly status: number | undefined;
  /** The error's name by the storage or by the system. Ceph's messages are empty. */
  readonly code: string | undefined;
};

/** Finds the failure. The response to a HEAD has no body, so only its status tells. */
export function storageFailureOf({ status, code = '' }: FailedAnswer): StorageFailure {
  const named = Object.hasOwn(BY_CODE, code) ? BY_CODE[code] : undefined;
  if (named !== undefined) return named;
  if (TLS_CODE.test(code)) return 'no-tls';
  if (status === undefined) return 'unreachable';
  if (REDIRECT_STATUS.test(String(status))) return 'wrong-region';
  if (DENIED_STATUS.test(String(status))) return 'access-denied';
  return FAILING_STATUS.test(String(status)) ? 'failing' : 'unexpected';
}

/** The advice for a failure: a sentence without its full stop, and without any value. */
export function storageAdvice(failure: StorageFailure): string {
  return ADVICE[failure];
}

/** Whether a failure is a mistake in the configuration: the service can't work until a person corrects it. */
export function isConfigurationMistake(failure: StorageFailure): boolean {
  return MISTAKES.has(failure);
}
