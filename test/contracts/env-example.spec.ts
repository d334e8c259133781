import { describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { environmentSchema, loadSettings, SettingsError } from '../../src/config/settings.js';

type Variable = {
  readonly name: string;
  readonly value: string;
  /** The line is a comment that shows only the default. */
  readonly optional: boolean;
  /** The comment right above. */
  readonly comment: string;
};

const variables = readVariables(readFileSync('.env.example', 'utf8'));
const required = variables.filter(({ optional }) => !optional);
const schemas = environmentSchema.shape;

/** A secret that is long enough for all variables. */
const SECRET = 'made with openssl rand -hex 32, as the file says';

describe('.env.example', () => {
  it('has each variable that the service reads exactly once', () => {
    expect(variables.map(({ name }) => name).sort()).toEqual(Object.keys(schemas).sort());
  });

  it.each(variables)('describes $name in a sentence', ({ comment }) => {
    expect(comment).toMatch(/^[A-Z][^\n]{20,}\.$/);
  });

  it.each(variables.filter(({ optional }) => optional))('shows the default of $name', ({ name, value }) => {
    const preset = valueOf(name, '');
    expect(valueOf(name, value)).toEqual(preset);
    // An empty value counts as not set, and so stands only where there is no default.
    if (typeof preset === 'string' || typeof preset === 'number') expect(value).not.toBe('');
  });

  it.each(required.filter(({ value }) => value !== ''))(
    'shows a valid example of $name',
    ({ name, value }) => {
      expect(() => valueOf(name, value)).not.toThrow();
    },
  );

  it('leaves the required secrets empty, and the service does not start without them', () => {
    const empty = required.filter(({ value }) => value === '').map(({ name }) => name);
    expect(empty).toEqual(['JWT_SECRET', 'DO_SPACES_KEY', 'DO_SPACES_SECRET']);
    expect(missingFrom(environment())).toEqual(empty);
  });

  it('is complete for production when the secrets are filled in', () => {
    const settings = loadSettings({
      ...environment(),
      JWT_SECRET: SECRET,
      DO_SPACES_KEY: 'key',
      DO_SPACES_SECRET: SECRET,
    });
    expect(settings).toMatchObject({
      environment: 'production',
      swaggerEnabled: false,
      storage: { driver: 's3', bucket: 'docavailable-storage' },
    });
  });

  it('needs every uncommented line: without it the service does not start', () => {
    const filled = { ...environment(), JWT_SECRET: SECRET, DO_SPACES_KEY: 'key', DO_SPACES_SECRET: SECRET };
    for (const { name } of required) {
      expect(missingFrom({ ...filled, [name]: undefined })).toEqual([name]);
    }
  });
});

/** The environment of the unchanged file. */
function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(required.map(({ name, value }) => [name, value]));
}

/** The names that the service complains about. */
function missingFrom(env: NodeJS.ProcessEnv): string[] {
  try {
    loadSettings(env);
    return [];
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    return error.problems.map((problem) => problem.slice(0, problem.indexOf(' ')));
  }
}

/** The setting that the service reads from a text; an empty text counts as not set. */
function valueOf(name: string, text: string): unknown {
  const schema = Object.entries(schemas).find(([key]) => key === name)?.[1];
  return schema?.parse(text === '' ? undefined : text);
}

function readVariables(text: string): Variable[] {
  const lines = text.split('\n');
  return lines.flatMap((line, index) => {
    const [, hash, name = '', value = ''] = /^(# )?([A-Z][A-Z_]+)=(.*)$/.exec(line) ?? [];
    if (name === '') return [];
    const above = lines[index - 1] ?? '';
    return [{ name, value, optional: hash !== undefined, comment: above.replace(/^# /, '') }];
  });
}
