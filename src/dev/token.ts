import { parseArgs } from 'node:util';
import { signToken } from '../auth/sign-token.js';
import { MAX_TOKEN_SECONDS } from '../auth/token-verifier.js';
import { loadJwtSettings, readEnvironment } from '../config/settings.js';
import { parseId } from '../database/parse-id.js';
import { runCommand, UsageError } from '../commands/run-command.js';

const USAGE =
  'Usage: npm run token -- --sub <user id> [--expires-in <seconds, default 86400, a year at most>]';

await runCommand(async () => {
  const { sub, expiresIn } = readArguments();
  const settings = loadJwtSettings(readEnvironment());
  if (settings.algorithm !== 'HS256') {
    throw new UsageError(
      `With JWT_ALGORITHM=${settings.algorithm} this service knows public keys only, and can not sign a token.`,
    );
  }
  process.stdout.write(`${signToken(sub, settings, expiresIn)}\n`);
  return Promise.resolve();
});

function readArguments(): { sub: number; expiresIn: number } {
  try {
    const { values } = parseArgs({
      options: { sub: { type: 'string' }, 'expires-in': { type: 'string', default: '86400' } },
    });
    const sub = parseId(values.sub ?? '');
    const expiresIn = parseId(values['expires-in']);
    if (sub === undefined || expiresIn === undefined || expiresIn > MAX_TOKEN_SECONDS)
      throw new UsageError(USAGE);
    return { sub, expiresIn };
  } catch {
    throw new UsageError(USAGE);
  }
}
