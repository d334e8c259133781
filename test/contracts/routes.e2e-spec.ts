import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Controller, Get, Module, RequestMethod, type Type } from '@nestjs/common';
import { ModulesContainer, NestFactory } from '@nestjs/core';
import type { OpenAPIObject } from '@nestjs/swagger';
import { Validator } from '@seriousme/openapi-schema-validator';
import { get } from 'node:http';
import { ACCESS } from '../../src/access/access.guard.js';
import { AppModule } from '../../src/app.module.js';
import { PUBLIC } from '../../src/auth/public.decorator.js';
import { createLogger } from '../../src/observability/logger.js';
import { bearerOnce } from '../../src/http/swagger/pasted-token.js';
import { signedUrlLinks } from '../../src/http/swagger/signed-url-links.js';
import { PATIENT, TestApp } from '../support/test-app.js';

type Handler = (...args: unknown[]) => unknown;
type Route = {
  readonly method: string;
  readonly path: string;
  readonly controller: Type;
  readonly handler: Handler;
};

const list = (value: unknown): string[] => (Array.isArray(value) ? value : [value]) as string[];

/** Every handler of every controller, as NestJS has registered it. */
function routesOf(test: TestApp): Route[] {
  const controllers = [...test.app.get(ModulesContainer).values()].flatMap((module) => [
    ...module.controllers.values(),
  ]);
  return controllers.flatMap(({ metatype }) => {
    const controller = metatype as Type;
    const prototype = controller.prototype as Record<string, unknown>;
    const handlers = Object.getOwnPropertyNames(prototype)
      .filter((name) => name !== 'constructor')
      .map((name) => prototype[name] as Handler);
    return handlers
      .filter((handler) => Reflect.hasMetadata('path', handler))
      .flatMap((handler) =>
        list(Reflect.getMetadata('path', controller)).flatMap((prefix) =>
          list(Reflect.getMetadata('path', handler)).map((path) => ({
            method: RequestMethod[Reflect.getMetadata('method', handler) as RequestMethod],
            path: `/${prefix}/${path}`.replaceAll(/\/+/g, '/').replace(/(.)\/$/, '$1'),
            controller,
            handler,
          })),
        ),
      );
  });
}

describe('the routes', () => {
  let test: TestApp;
  let routes: Route[];

  beforeAll(async () => {
    test = await TestApp.start({ TEXT_SESSIONS: 'true', DEMO_ENABLED: 'true' });
    routes = routesOf(test);
  });

  afterAll(() => test.stop());

  it('are exactly the documented routes', () => {
    expect(routes.map(({ method, path }) => `${method} ${path}`).sort()).toEqual([
      'GET /api/appointments/:appointmentId/chat-images',
      'GET /api/chat-images/:id',
      'GET /api/chat-images/:id/signed-url',
      'GET /api/health',
      'GET /api/health/ready',
      'GET /api/images/chat_images/appointment_:appointmentId/:filename',
      'GET /api/images/chat_images/text_session_:textSessionId/:filename',
      'GET /api/local-storage/*key',
      'GET /api/text-sessions/:textSessionId/chat-images',
      'GET /demo/images/:id/trail',
      'GET /demo/session.json',
      'GET /storage/chat_images/appointment_:appointmentId/:filename',
      'GET /storage/chat_images/text_session_:textSessionId/:filename',
      'HEAD /api/appointments/:appointmentId/chat-images',
      'HEAD /api/chat-images/:id/signed-url',
      'HEAD /api/images/chat_images/appointment_:appointmentId/:filename',
      'HEAD /api/images/chat_images/text_session_:textSessionId/:filename',
      'HEAD /api/text-sessions/:textSessionId/chat-images',
      'HEAD /storage/chat_images/appointment_:appointmentId/:filename',
      'HEAD /storage/chat_images/text_session_:textSessionId/:filename',
      'POST /api/chat-images/signed-urls',
      'POST /api/upload/chat-image',
    ]);
  });

  it('of the demo are there with DEMO_ENABLED only, and give tokens to no page of another name', async () => {
    expect((await test.fetch('/demo/session.json')).status).toBe(200);
    // The name that a browser sends for a page whose owner has pointed its name at this machine.
    const asOther = await new Promise<number | undefined>((resolve, reject) =>
      get(`${test.url}/demo/session.json`, { headers: { host: 'elsewhere.example.com' } }, ({ statusCode }) =>
        resolve(statusCode),
      ).on('error', reject),
    );
    expect(asOther).toBe(403);
    const without = await TestApp.start();
    try {
      expect(routesOf(without).filter(({ path }) => path.startsWith('/demo'))).toEqual([]);
      for (const path of ['/demo', '/demo/session.json', '/demo/images/1/trail'])
        expect([path, (await without.fetch(path, { as: PATIENT })).status]).toEqual([path, 404]);
    } finally {
      await without.stop();
    }
  });

  it('all declare their authentication: public with a reason, or participants only', () => {
    for (const { method, path, controller, handler } of routes) {
      const reason = (Reflect.getMetadata(PUBLIC, handler) ?? Reflect.getMetadata(PUBLIC, controller)) as
        string | undefined;
      const access = Reflect.getMetadata(ACCESS, handler) as Type | undefined;
      const declaration = [reason && 'public', access && 'participants'];
      expect([`${method} ${path}`, declaration.filter(Boolean)]).toEqual([
        `${method} ${path}`,
        [expect.stringMatching(/^(public|participants)$/)],
      ]);
      if (access) expect(test.app.get(access)).toBeInstanceOf(access);
      if (reason) expect(reason.length).toBeGreaterThan(20);
    }
  });

  it('answer 403 when they declare no authentication, also with a token', async () => {
    @Controller('undeclared')
    class UndeclaredController {
      @Get()
      read(): string {
        return 'a secret';
      }
    }
    @Module({
      imports: [AppModule.with(test.settings, createLogger('silent'))],
      controllers: [UndeclaredController],
    })
    class ModuleWithUndeclared {}
    const app = await NestFactory.create(ModuleWithUndeclared, { logger: false });
    try {
      await app.listen(0, '127.0.0.1');
      const answer = await fetch(`${await app.getUrl()}/undeclared`, {
        headers: { authorization: `Bearer ${test.token(PATIENT)}` },
      });
      expect([answer.status, await answer.json()]).toEqual([
        403,
        expect.objectContaining({ error_code: 'FORBIDDEN' }),
      ]);
    } finally {
      await app.close();
    }
  });

  it('answer 401 without a token when they are not public', async () => {
    for (const { method, path, handler } of routes) {
      if (Reflect.hasMetadata(PUBLIC, handler)) continue;
      const address = path.replaceAll(/:\w+/g, '1');
      const response = await test.fetch(address, { method, ...(method === 'POST' ? { body: 'x' } : {}) });
      expect([path, response.status]).toEqual([path, 401]);
    }
  });

  it('answer 4xx to an outsider when they are not public', async () => {
    for (const { method, path, handler } of routes) {
      if (Reflect.hasMetadata(PUBLIC, handler)) continue;
      const { status } = await test.fetch(path.replaceAll(/:\w+/g, '1'), { method, as: 3 });
      expect([path, status >= 400 && status < 500]).toEqual([path, true]);
    }
  });

  it('are described by a valid OpenAPI document with an example for every response', async () => {
    const response = await test.fetch('/api/docs-json');
    expect(response.status).toBe(200);
    const document = (await response.json()) as Record<string, unknown> & OpenAPIObject;
    const { valid, errors } = await new Validator().validate(structuredClone(document));
    expect([valid, errors]).toEqual([true, undefined]);
    expect(Object.keys(document.paths).sort()).toEqual([
      '/api/appointments/{appointmentId}/chat-images',
      '/api/chat-images/signed-urls',
      '/api/chat-images/{id}',
      '/api/chat-images/{id}/signed-url',
      '/api/health',
      '/api/health/ready',
      '/api/images/chat_images/appointment_{appointmentId}/{filename}',
      '/api/text-sessions/{textSessionId}/chat-images',
      '/api/upload/chat-image',
      '/storage/chat_images/appointment_{appointmentId}/{filename}',
    ]);
    const unavailable = JSON.stringify(document.paths['/api/upload/chat-image']?.post?.responses['503']);
    for (const code of ['OVERLOADED', 'DATABASE_UNAVAILABLE', 'STORAGE_UNAVAILABLE'])
      expect(unavailable).toContain(code);
    const schemas = document.components?.schemas ?? {};
    for (const [path, operations] of Object.entries(document.paths)) {
      for (const operation of Object.values(operations) as { responses: Record<string, AnswerObject> }[]) {
        for (const [status, answer] of Object.entries(operation.responses)) {
          expect([path, status, hasExample(answer, schemas)]).toEqual([path, status, true]);
        }
      }
    }
  });

  it('have unique operation ids for generated clients', async () => {
    const { paths } = await openApi(test);
    const ids = Object.entries(paths).flatMap(([path, operations]) =>
      Object.values(operations as Record<string, { operationId: string; deprecated?: boolean }>).map(
        ({ operationId, deprecated = false }) => [operationId, path, deprecated],
      ),
    );
    expect(ids.sort()).toEqual([
      ['getChatImage', '/api/chat-images/{id}', false],
      ['getHealth', '/api/health', false],
      ['getReadiness', '/api/health/ready', false],
      ['getSignedUrl', '/api/chat-images/{id}/signed-url', false],
      ['getSignedUrls', '/api/chat-images/signed-urls', false],
      ['listChatImages', '/api/appointments/{appointmentId}/chat-images', false],
      ['listTextSessionChatImages', '/api/text-sessions/{textSessionId}/chat-images', false],
      ['openChatImage', '/storage/chat_images/appointment_{appointmentId}/{filename}', false],
      ['openChatImageByAlias', '/api/images/chat_images/appointment_{appointmentId}/{filename}', true],
      ['uploadChatImage', '/api/upload/chat-image', false],
    ]);
  });

  it('have a description and an example for every path parameter', async () => {
    const { paths } = await openApi(test);
    for (const [path, operations] of Object.entries(paths)) {
      for (const { parameters = [] } of Object.values(operations) as { parameters?: Parameter[] }[]) {
        const inPath = parameters.filter((parameter) => parameter.in === 'path');
        expect([path, inPath.map(({ name }) => name).sort()]).toEqual([
          path,
          [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort(),
        ]);
        for (const { name, schema, examples } of inPath)
          expect([path, name, schema.example ?? examples]).toEqual([path, name, expect.anything()]);
      }
    }
  });

  it('have examples with the sample data and with every response field', async () => {
    const { components } = await openApi(test);
    const schemas = (components?.schemas ?? {}) as Record<string, Schema>;
    expect(schemas.SignedUrlsRequestDto?.properties?.ids?.example).toEqual([1, 2]);
    expect(schemas.ChatImageListDto?.properties?.images?.items).toEqual({
      $ref: '#/components/schemas/ListedChatImageDto',
    });
    expect(Object.keys(schemas.ListedChatImageDto?.properties ?? {}).sort()).toEqual(
      [
        ...new Set([
          ...Object.keys(schemas.ChatImageDto?.properties ?? {}),
          ...Object.keys(schemas.SignedUrlDto?.properties ?? {}),
        ]),
      ].sort(),
    );
  });

  it('of text sessions are not described without TEXT_SESSIONS', async () => {
    const described = Object.keys((await openApi(test)).paths);
    await test.restart({ TEXT_SESSIONS: '' });
    expect(Object.keys((await openApi(test)).paths)).toEqual(
      described.filter((path) => !path.includes('text-sessions')),
    );
  });

  it('are shown on the Swagger page', async () => {
    const response = await test.fetch('/api/docs');
    expect([response.status, response.headers.get('content-type')]).toEqual([
      200,
      'text/html; charset=utf-8',
    ]);
  });
});

async function openApi(test: TestApp): Promise<OpenAPIObject> {
  return (await (await test.fetch('/api/docs-json')).json()) as OpenAPIObject;
}

type Parameter = {
  readonly name: string;
  readonly in: string;
  readonly schema: Schema;
  readonly examples?: object;
};
type Schema = {
  $ref?: string;
  example?: unknown;
  items?: Schema;
  properties?: Record<string, Schema>;
  allOf?: Schema[];
};
type AnswerObject = { content?: Record<string, { schema?: Schema; examples?: Record<string, unknown> }> };

/** Whether a response has an example, or an example for every property. */
function hasExample({ content }: AnswerObject, schemas: Record<string, unknown>): boolean {
  const complete = (schema: Schema | undefined): boolean => {
    if (!schema) return false;
    if (schema.$ref) return complete(schemas[schema.$ref.split('/').at(-1) ?? ''] as Schema | undefined);
    if (schema.allOf) return schema.allOf.every(complete);
    if (schema.properties) return Object.values(schema.properties).every(complete);
    return schema.example !== undefined || complete(schema.items);
  };
  const body = content?.['application/json'];
  return Object.keys(body?.examples ?? {}).length > 0 || complete(body?.schema);
}

describe('the Swagger page', () => {
  it('loads its interceptor and plugin from a file, as its policy forbids inline scripts', async () => {
    const test = await TestApp.start();
    try {
      const page = await test.fetch('/api/docs');
      const policy = page.headers.get('content-security-policy') ?? '';
      expect(policy).toMatch(/(^|;)script-src 'self'(;|$)/);
      expect(policy).toMatch(/(^|;)script-src-attr 'none'(;|$)/);
      const html = await page.text();
      const scripts = [...html.matchAll(/<script(.*?)>(.*?)<\/script>/gs)];
      expect(scripts.map(([, , inline = '']) => inline.trim()).join('')).toBe('');
      const sources = scripts.map(([, attributes = '']) => /src="([^"]+)"/.exec(attributes)?.[1] ?? '');
      const init = sources.find((source) => source.endsWith('swagger-ui-init.js')) ?? '';
      const script = await test.fetch(new URL(init, `${test.url}/api/docs`).pathname);
      expect([script.status, script.headers.get('content-type')]).toEqual([
        200,
        expect.stringContaining('javascript'),
      ]);
      const text = await script.text();
      expect(text).toContain(`"requestInterceptor": ${bearerOnce.toString()}`);
      expect(text).toContain(signedUrlLinks.toString());
    } finally {
      await test.stop();
    }
  });

  it('is off in production, and on with SWAGGER_ENABLED=true', async () => {
    for (const [switched, status] of [
      ['', 404],
      ['true', 200],
    ] as const) {
      const test = await TestApp.start({ NODE_ENV: 'production', SWAGGER_ENABLED: switched });
      try {
        expect((await test.fetch('/api/docs')).status).toBe(status);
        expect((await test.fetch('/api/docs-json', { as: PATIENT })).status).toBe(status);
      } finally {
        await test.stop();
      }
    }
  });
});
