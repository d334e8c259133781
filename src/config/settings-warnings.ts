import { isUnencrypted, type Settings } from './settings.js';

/** Settings that work, and that production should not have. */
export type SettingsWarning = {
  readonly topic: 'encryption' | 'secrets';
  /** One line for a person, with the variable's name and without its value. */
  readonly message: string;
};

/** Fewer bits can be guessed, if not today. Of random secrets of 32 hexadecimal digits, the least that count over 75. */
const MIN_ENTROPY_BITS = 72;

/** What to do about a secret that can be guessed. */
const ADVICE = {
  JWT_SECRET: 'make one with openssl rand -hex 32, and set it in the main application too',
  JWT_SECRET_PREVIOUS: 'take it away as soon as the main application signs with the new one',
  LOCAL_STORAGE_SECRET: 'make one with openssl rand -hex 32',
};

/** What people write in a secret's place. */
const WORDS =
  /secrets?|passwords?|passwd|change-?_?me|example|default|production|development|signing|token|jwt|key|admin|test|your|very|long|base64|docavailable/gi;

/** @returns nothing outside of production */
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
 * How much a secret holds, roughly, and at most: enough to find the careless ones, while a sentence passes. It is Shannon's
 * entropy of the characters, or of the steps between them where that is less (`abcdef`), times the places but those that repeat
 * what was before. Words that people write in a secret's place count for nothing.
 */
export function entropyBits(secret: string): number {
  const codes = Array.from(secret.replaceAll(WORDS, ''), (character) => character.codePointAt(0) ?? 0);
  const steps = codes.slice(1).map((code, index) => code - (codes[index] ?? 0));
  const triples = new Set(codes.slice(2).map((code, index) => [codes[index], codes[index + 1], code].join()));
  return Math.min(shannonBits(codes), shannonBits(steps)) * triples.size;
}

/** Bits for each of the values. */
function shannonBits(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts.values()].reduce((bits, count) => {
    const share = count / values.length;
    return bits - share * Math.log2(share);
  }, 0);
}
