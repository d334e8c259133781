import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { picture } from '../support/pictures.js';
import { DOCTOR, TestApp } from '../support/test-app.js';

const APP = 'https://app.example.com';

describe('the service', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start({ CORS_ORIGINS: `${APP},https://admin.example.com` });
  });

  afterAll(() => test.stop());

  it('answers 200 on GET /api/health', async () => {
    const response = await test.fetch('/api/health');
    expect([response.status, await response.json()]).toEqual([
      200,
      {
        status: 'ok',
        message: expect.any(String),
        timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/),
      },
    ]);
  });

  it('sets X-Request-Id, or keeps the valid id of a proxy', async () => {
    expect((await test.fetch('/api/health')).headers.get('x-request-id')).toMatch(/^[\da-f-]{36}$/);
    const named = await test.fetch('/api/health', { headers: { 'x-request-id': 'trace-0123456789' } });
    expect(named.headers.get('x-request-id')).toBe('trace-0123456789');
    const strange = await test.fetch('/api/health', { headers: { 'x-request-id': 'a"},{"b' } });
    expect(strange.headers.get('x-request-id')).toMatch(/^[\da-f-]{36}$/);
  });

  it('allows CORS only for the configured origins, with the headers of the app', async () => {
    const preflight = (origin: string): Promise<Response> =>
      test.fetch('/api/chat-images/1/signed-url', {
        method: 'OPTIONS',
        headers: {
          origin,
          'access-control-request-method': 'GET',
          'access-control-request-headers': 'authorization,content-type,x-app-version,x-platform',
        },
      });
    const allowed = await preflight(APP);
    expect(allowed.status).toBe(204);
    expect(allowed.headers.get('access-control-allow-origin')).toBe(APP);
    const headers = allowed.headers.get('access-control-allow-headers')?.toLowerCase().split(',');
    expect(headers).toEqual(
      expect.arrayContaining(['authorization', 'content-type', 'x-app-version', 'x-platform']),
    );
    const answer = await test.fetch('/api/health', { headers: { origin: APP } });
    expect(answer.headers.get('access-control-expose-headers')).toBe('Date,X-Request-Id,Retry-After');
    expect(
      (await preflight('https://evil.example.com')).headers.get('access-control-allow-origin'),
    ).toBeNull();
  });

  it('sends security headers', async () => {
    const { headers } = await test.fetch('/api/health');
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('strict-transport-security')).toMatch(/max-age/);
    expect(headers.get('content-security-policy')).toBe("default-src 'none'; frame-ancestors 'none'");
    expect(headers.get('x-frame-options')).toBe('DENY');
    expect(headers.get('referrer-policy')).toBe('no-referrer');
    expect(headers.get('cross-origin-resource-policy')).toBe('same-origin');
    expect(headers.get('x-powered-by')).toBeNull();
    const page = await test.fetch('/api/docs');
    expect(page.headers.get('content-security-policy')).toContain("default-src 'self'");
  });

  it('logs one line per request, with the route and without the URL', async () => {
    const { data } = (await (await test.upload(await picture('png'))).json()) as UploadedChatImageResponseDto;
    await (await fetch(data.signed_url)).arrayBuffer();
    const response = await test.fetch(`/api/chat-images/${data.id}/signed-url?secret=1`, { as: DOCTOR });
    const requestId = response.headers.get('x-request-id') ?? 'none';
    const lines = test.logLines
      .filter((line) => line.includes(requestId))
      .map((line) => JSON.parse(line) as object);
    expect(lines).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/Z$/),
        requestId,
        userId: DOCTOR,
        network: '127.0.0.1',
        method: 'GET',
        route: '/api/chat-images/:id/signed-url',
        imageId: data.id,
        status: 200,
        ms: expect.any(Number),
        msg: 'request',
      },
    ]);
    expect(test.logLines.join('\n')).not.toMatch(
      /secret|Signature|eyJ|photo\.jpg|chat_images\/appointment_145/,
    );
  });
});
