import { createPublicKey } from 'node:crypto';
import { signToken } from '../auth/sign-token.js';
import { TokenVerifier } from '../auth/token-verifier.js';
import type { JwtSettings, Settings } from '../config/settings.js';
import { type Finding, ok, wrong } from './finding.js';

/** Any user: the token is not used. */
const USER_ID = 1;
const TOKEN_SECONDS = 60;

/** The least that the algorithm asks for (RFC 7518, 3.3 and 3.4). */
const RSA_BITS = 2048;
const ES256_CURVE = 'prime256v1';

/** Whether tokens of the configured kind can be verified. */
export function checkTokens(settings: Settings): Finding {
  const { jwt } = settings;
  const name = `token ${jwt.algorithm}`;
  if (jwt.algorithm !== 'HS256') return checkPublicKey(name, jwt);
  const verified = new TokenVerifier(settings).verify(signToken(USER_ID, jwt, TOKEN_SECONDS));
  return verified?.id === USER_ID
    ? ok(
        name,
        "one that was signed with JWT_SECRET is accepted; whether it is the main application's secret shows with a token of its own",
      )
    : wrong(name, 'one that was signed with JWT_SECRET is refused: check JWT_SECRET and JWT_ISSUER');
}

function checkPublicKey(name: string, { algorithm, key }: JwtSettings): Finding {
  const { modulusLength = 0, namedCurve } = createPublicKey(key).asymmetricKeyDetails ?? {};
  if (algorithm === 'RS256' && modulusLength < RSA_BITS)
    return wrong(name, `JWT_PUBLIC_KEY must have at least ${RSA_BITS} bits, this one has ${modulusLength}`);
  if (algorithm === 'ES256' && namedCurve !== ES256_CURVE)
    return wrong(name, `JWT_PUBLIC_KEY must be of the curve P-256, as JWT_ALGORITHM=ES256 says`);
  return ok(
    name,
    'JWT_PUBLIC_KEY fits the algorithm; no token can be signed here, so try one of the main application',
  );
}
