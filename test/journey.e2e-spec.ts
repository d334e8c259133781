import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { TestApp } from './test-app.js';
import { phonePhoto } from './pictures.js';
describe('smoke', () => {
  let t: TestApp;
  beforeAll(async () => {
    t = await TestApp.start();
  });
  afterAll(() => t.stop());
  it('uploads', async () => {
    const r = await t.upload(await phonePhoto());
    expect(r.status).toBe(200);
    const b = await r.json();
    console.log(b);
  });
});
