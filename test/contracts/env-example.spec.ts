import { describe, expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { environmentSchema, loadSettings, SettingsError } from '../../src/config/settings.js';

type Variable = {
  readonly name: string;
  readonly value: string;
  /** Shown for its default only: the line is a comment. */
  readonly optional: boolean;
  /** The comment right above. */
  readonly comment: string;
};

const variables = readVariables(readFileSync('.env.example', 'utf8'));
const required = variables.filter(({ optional }) => !optional);
const schemas = environmentSchema.shape;

/** A secret long enough for all of them. */
const SECRET = 'made with openssl rand -hex 32, as the file says';

describe('.env.example', () => {
  it('names exactly the variables that the service reads, each once', () => {
    expect(variables.map(({ name }) => name).sort()).toEqual(Object.keys(schemas).sort());
  });

  it.each(variables)('says in a sentence what $name is for', ({ comment }) => {
    expect(comment).toMatch(/^[A-Z][^\n]{20,}\.$/);
  });

  it.each(variables.filter(({ optional }) => optional))('shows the default of $name', ({ name, value }) => {
    const preset = valueOf(name, '');
    expect(valueOf(name, value)).toEqual(preset);
    // An empty value counts as not set, so it would agree with every default: it stands where there is none.
    if (typeof preset === 'string' || typeof preset === 'number') expect(value).not.toBe('');
  });

  it.each(required.filter(({ value }) => value !== ''))(
    'shows a valid example of $name',
    ({ name, value }) => {
      expect(() => valueOf(name, value)).not.toThrow();
    },
  );

  it('holds no secret: those are left empty, and the service does not start without them', () => {
    const empty = required.filter(({ value }) => value === '').map(({ name }) => name);
    expect(empty).toEqual(['JWT_SECRET', 'DO_SPACES_KEY', 'DO_SPACES_SECRET']);
    expect(missingFrom(environment())).toEqual(empty);
  });

  it('is all that production needs once the secrets are filled in', () => {
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

  it('leaves out nothing that is needed: without any one of its uncommented lines the service does not start', () => {
    const filled = { ...environment(), JWT_SECRET: SECRET, DO_SPACES_KEY: 'key', DO_SPACES_SECRET: SECRET };
    for (const { name } of required) {
      expect(missingFrom({ ...filled, [name]: undefined })).toEqual([name]);
    }
  });
});

/** The environment that the file makes when it is copied as it is. */
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

/** What the service makes of a variable's text; an empty one counts as not set. */
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
