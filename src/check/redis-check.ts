import type { Settings } from '../config/settings.js';
import { createLogger } from '../observability/logger.js';
import { SharedRedis } from '../rate-limits/shared-redis.js';
import { type Finding, ok, warning } from './finding.js';

/** Advice by the reason why Redis is away. */
const ADVICE: Readonly<Record<string, string>> = {
  WRONGPASS: 'check the user and password in REDIS_URL',
  NOAUTH: 'add the password to REDIS_URL',
  NOPERM: 'the user needs eval, get, incrby, pttl and pexpire on keys chat-image-store:*',
  READONLY: 'REDIS_URL leads to a replica: use the address of the primary',
  OOM: 'its memory is full, and its maxmemory-policy removes nothing',
  MOVED: 'cluster mode is not supported: use a Redis without it',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'set REDIS_CA_CERT to the CA certificate that its provider hands out',
  SELF_SIGNED_CERT_IN_CHAIN: 'set REDIS_CA_CERT to the CA certificate that its provider hands out',
  ERR_TLS_CERT_ALTNAME_INVALID: 'write the name in its certificate into REDIS_URL',
};

/** Counts once in the Redis of REDIS_URL, if it is set. The service works without it, so nothing here is wrong. */
export async function* checkRedis(settings: Settings): AsyncGenerator<Finding> {
  const redis = new SharedRedis(settings, createLogger('silent'));
  if (redis.state === 'off') return;
  await redis.onModuleInit();
  const { state, reason = 'no answer' } = redis;
  redis.onApplicationShutdown();
  const advice = ADVICE[reason] ?? 'check the address in REDIS_URL, and that Redis runs';
  yield state === 'up'
    ? ok('redis', 'counts rate limits for all instances together')
    : warning('redis', `does not count (${reason}), so each process counts by itself: ${advice}`);
}
