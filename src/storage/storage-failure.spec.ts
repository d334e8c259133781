import { describe, expect, it } from '@jest/globals';
import {
  isConfigurationMistake,
  storageAdvice,
  type StorageFailure,
  storageFailureOf,
} from './storage-failure.js';

describe('storageFailureOf', () => {
  it.each<[status: number | undefined, code: string | undefined, failure: StorageFailure]>([
    [403, 'InvalidAccessKeyId', 'wrong-key'],
    [403, 'SignatureDoesNotMatch', 'wrong-secret'],
    [400, 'AuthorizationHeaderMalformed', 'wrong-region'],
    [301, 'PermanentRedirect', 'wrong-region'],
    [307, undefined, 'wrong-region'],
    [404, 'NoSuchBucket', 'no-such-bucket'],
    [400, 'AccessControlListNotSupported', 'acl-refused'],
    [403, 'AccessDenied', 'access-denied'],
    [403, undefined, 'access-denied'],
    [401, 'Unknown', 'access-denied'],
    [403, 'RequestTimeTooSkewed', 'clock-skewed'],
    [undefined, 'ECONNREFUSED', 'unreachable'],
    [undefined, undefined, 'unreachable'],
    [undefined, 'EPROTO', 'no-tls'],
    [undefined, 'SELF_SIGNED_CERT_IN_CHAIN', 'no-tls'],
    [undefined, 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'no-tls'],
    [undefined, 'CERT_HAS_EXPIRED', 'no-tls'],
    [undefined, 'ERR_TLS_CERT_ALTNAME_INVALID', 'no-tls'],
    [503, 'SlowDown', 'failing'],
    [500, undefined, 'failing'],
    [429, 'TooManyRequests', 'failing'],
    [404, undefined, 'unexpected'],
    [200, 'SyntaxError', 'unexpected'],
    // A code must not match a property of the table's prototype.
    [400, 'constructor', 'unexpected'],
  ])('maps status %s with code %s to %s', (status, code, failure) => {
    expect(storageFailureOf({ status, code })).toBe(failure);
  });
});

describe('isConfigurationMistake', () => {
  it.each<[StorageFailure, boolean]>([
    ['wrong-key', true],
    ['wrong-secret', true],
    ['wrong-region', true],
    ['no-such-bucket', true],
    ['access-denied', false],
    ['clock-skewed', false],
    ['no-tls', false],
    ['unreachable', false],
    ['failing', false],
    ['unexpected', false],
  ])('returns for %s the value %s', (failure, mistake) => {
    expect(isConfigurationMistake(failure)).toBe(mistake);
  });
});

describe('storageAdvice', () => {
  it.each<[StorageFailure, string]>([
    ['wrong-key', 'DO_SPACES_KEY'],
    ['wrong-secret', 'DO_SPACES_SECRET'],
    ['wrong-region', 'DO_SPACES_REGION'],
    ['no-such-bucket', 'DO_SPACES_BUCKET'],
    ['acl-refused', 'DO_SPACES_OBJECT_ACL=none'],
    ['unreachable', 'DO_SPACES_ENDPOINT'],
  ])('for %s names the variable %s', (failure, variable) => {
    expect(storageAdvice(failure)).toContain(variable);
  });
});
