import { isUnencrypted, type Settings } from './settings.js';

/** A setting that works, but is unsafe in production. */
export type SettingsWarning = {
  readonly topic: 'encryption' | 'secrets';
  /** One line for the operator, with the variable's name, without its value. */
  readonly message: string;
};

/** Secrets of fewer bits may be guessed. Random secrets of 32 hexadecimal digits count as at least 75 bits. */
const MIN_ENTROPY_BITS = 72;

/** Advice for a secret that can be guessed. */
const ADVICE = {
  JWT_SECRET: 'make one with openssl rand -hex 32, and set it in the main application too',
  JWT_SECRET_PREVIOUS: 'take it away as soon as the main application signs with the new one',
  LOCAL_STORAGE_SECRET: 'make one with openssl rand -hex 32',
};

/** Placeholder words in secrets. */
const WORDS =
  /secrets?|passwords?|passwd|change-?_?me|example|default|production|development|signing|token|jwt|key|admin|test|your|very|long|base64|docavailable/gi;

/** @returns an empty list outside production */
export function settingsWarnings({
  environment,
  appUrl,
  storage,
  jwt,
}: Settings): readonly SettingsWarning[] {
  if (environment !== 'production') return [];
  const addresses = {
    APP_URL: appUrl,
    ...(storage.driver === 's3'
      ? { DO_SPACES_ENDPOINT: storage.endpoint, DO_SPACES_URL: storage.publicUrl }
      : {}),
  };
  const secrets = [
    ...(jwt.algorithm === 'HS256'
      ? ([
          ['JWT_SECRET', jwt.key],
          ['JWT_SECRET_PREVIOUS', jwt.previousKey],
        ] as const)
      : []),
    ...(storage.driver === 'local' ? ([['LOCAL_STORAGE_SECRET', storage.secret]] as const) : []),
  ];
  return [
    ...Object.entries(addresses)
      .filter(([, url]) => isUnencrypted(url))
      .map(([name]) => ({
        topic: 'encryption' as const,
        message: `${name} is no https address: pictures can be read on their way`,
      })),
    ...secrets
      .filter(([, secret]) => secret !== undefined && entropyBits(secret) < MIN_ENTROPY_BITS)
      .map(([name]) => ({ topic: 'secrets' as const, message: `${name} can be guessed: ${ADVICE[name]}` })),
  ];
}

/**
 * Rough upper bound of a secret's entropy. Finds careless secrets; a whole sentence passes. The result is bits per character
 * times the number of distinct character triples. Bits per character is Shannon's entropy of the characters, or of the
 * differences between neighbours if smaller (`abcdef`). Placeholder words count as nothing.
 */
export function entropyBits(secret: string): number {
  const codes = Array.from(secret.replaceAll(WORDS, ''), (character) => character.codePointAt(0) ?? 0);
  const steps = codes.slice(1).map((code, index) => code - (codes[index] ?? 0));
  const triples = new Set(codes.slice(2).map((code, index) => [codes[index], codes[index + 1], code].join()));
  return Math.min(shannonBits(codes), shannonBits(steps)) * triples.size;
}

/** Shannon's entropy: bits per value. */
function shannonBits(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts.values()].reduce((bits, count) => {
    const share = count / values.length;
    return bits - share * Math.log2(share);
  }, 0);
}
