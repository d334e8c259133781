import { createPublicKey, type KeyObject } from 'node:crypto';
import { reasonOf, RemoteKeys } from '../auth/remote-keys.js';
import { signToken } from '../auth/sign-token.js';
import { TokenVerifier } from '../auth/token-verifier.js';
import type { JwtSettings, Settings } from '../config/settings.js';
import { type Finding, ok, wrong } from './finding.js';

/** Any id: the token is only verified. */
const USER_ID = 1;
const TOKEN_SECONDS = 60;

/** Minimum required by the algorithm (RFC 7518, 3.3 and 3.4). */
const RSA_BITS = 2048;
const ES256_CURVE = 'prime256v1';

/** Checks that tokens of the configured algorithm can be verified. */
export async function checkTokens(settings: Settings): Promise<Finding> {
  const { jwt } = settings;
  const name = `token ${jwt.algorithm}`;
  if (jwt.jwks) return checkPublishedKeys(name, new RemoteKeys(jwt.jwks, jwt.algorithm));
  return jwt.algorithm === 'HS256' ? checkSecret(name, settings) : checkPublicKeys(name, jwt);
}

async function checkSecret(name: string, settings: Settings): Promise<Finding> {
  const token = signToken(USER_ID, settings.jwt, TOKEN_SECONDS);
  const verified = await new TokenVerifier(settings).verify(token);
  return verified?.id === USER_ID
    ? ok(
        name,
        "one that was signed with JWT_SECRET is accepted; whether it is the main application's secret shows with a token of its own",
      )
    : wrong(
        name,
        'one that was signed with JWT_SECRET is refused: check JWT_SECRET, and that JWT_REQUIRED_CLAIMS agrees with JWT_ISSUER and JWT_AUDIENCE',
      );
}

function checkPublicKeys(name: string, { algorithm, key, previousKey }: JwtSettings): Finding {
  const mistakes = Object.entries({ JWT_PUBLIC_KEY: key, JWT_PUBLIC_KEY_PREVIOUS: previousKey }).flatMap(
    ([variable, pem]) => {
      const mistake = pem === undefined ? undefined : mistakeOf(createPublicKey(pem), algorithm);
      return mistake === undefined ? [] : [`${variable} ${mistake}`];
    },
  );
  return mistakes.length > 0
    ? wrong(name, mistakes.join('; '))
    : ok(
        name,
        'JWT_PUBLIC_KEY fits the algorithm; no token can be signed here, so try one of the main application',
      );
}

async function checkPublishedKeys(name: string, keys: RemoteKeys): Promise<Finding> {
  try {
    await keys.load();
  } catch (error) {
    return wrong(name, `the keys of JWT_JWKS_URL can not be fetched (${reasonOf(error)})`);
  }
  const mistakes = keys.usable.map((key) => mistakeOf(key, keys.algorithm));
  const [mistake] = mistakes;
  return mistakes.includes(undefined)
    ? ok(
        name,
        'JWT_JWKS_URL publishes a key that fits the algorithm; no token can be signed here, so try one of the main application',
      )
    : wrong(
        name,
        `JWT_JWKS_URL publishes no key that may sign with ${keys.algorithm}${mistake === undefined ? '' : `: one ${mistake}`}`,
      );
}

/** The mistake of a key, as the end of a sentence that begins with its name. */
function mistakeOf(key: KeyObject, algorithm: JwtSettings['algorithm']): string | undefined {
  const { modulusLength = 0, namedCurve } = key.asymmetricKeyDetails ?? {};
  if (algorithm === 'RS256' && modulusLength < RSA_BITS)
    return `must have at least ${RSA_BITS} bits, this one has ${modulusLength}`;
  if (algorithm === 'ES256' && namedCurve !== ES256_CURVE)
    return 'must be of the curve P-256, as JWT_ALGORITHM=ES256 says';
  return undefined;
}
