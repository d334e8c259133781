import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { TestApp } from '../../test/support/test-app.js';

const TYPES = new URL('../src/api-types.ts', import.meta.url);
const GENERATE = ['exec', '--workspace', 'client', '--', 'openapi-typescript', '--immutable'];

describe('the types of the service', () => {
  let service: TestApp;

  beforeAll(async () => {
    service = await TestApp.start({ TEXT_SESSIONS: 'true' });
  });

  afterAll(() => service.stop());

  it('are those of its OpenAPI document; `npm run api-types` writes them again', async () => {
    const document = await (await service.fetch('/api/docs-json')).text();
    const types = execFileSync('npm', GENERATE, { input: document, encoding: 'utf8' });
    if (process.env.WRITE_API_TYPES) writeFileSync(TYPES, types);
    expect(readFileSync(TYPES, 'utf8')).toBe(types);
  });
});
